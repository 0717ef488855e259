"""Compare the ways to choose calibration photos: what INT8 keeps of float's answers, on photos held out of training.

    python benchmarks/calibration_selection.py --nets NETS [--only NAME ...] [--seeds 5]

The networks are those of `quantize_vs_peers.py`, their builds' stages up to `reference` done (else they are made). Each
way draws so many photos with several seeds; the recipe is minmax but for that. The photos that results are measured on
are not looked at: what is chosen here becomes a default.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
from quantize_vs_peers import Shown, builds_of
from recording import save_result

from edgetl.data import image_batches, labels_of
from edgetl.export import CoreSession
from edgetl.metrics import compare_paired
from edgetl.pipeline import BuildSettings, Plan, build, make_plan
from edgetl.pipeline.plan import BATCH
from edgetl.quantize import calibrate
from edgetl.quantize.by_onnxruntime import quantize_graph
from edgetl.recipe import CalibrationRecipe, load_recipe
from edgetl.records import FloatArray, Quiet

WAYS = get_args(CalibrationRecipe.model_fields["select"].annotation)
COUNTS = (50, 200)


def answer(plan: Plan, recipe: CalibrationRecipe) -> FloatArray:
    """Return what INT8 answers for the held-out photos, as ONNX defines it."""
    varied, core = plan.vary(recipe), onnx.load(plan.core)
    photos = image_batches(plan.photos.usable, varied.calibration_photos, plan.faced, BATCH)
    quantized = quantize_graph(core, calibrate(core, photos, recipe), recipe)
    session = CoreSession(quantized.SerializeToString())
    return np.concatenate([session.run(images) for images in plan.read_kept(range(len(plan.photos.held)))])


def compare(plan: Plan, seeds: int) -> dict[str, Any]:
    """Return, by way and number of photos, decibels of signal, points lost and answers kept, a number a seed."""
    held = plan.photos.held
    float_, labels = plan.floats[: len(held)], labels_of(held)
    figures: dict[str, Any] = {}
    for count in COUNTS:
        for way in WAYS:
            rows: dict[str, list[float]] = {"decibels": [], "drop_points": [], "agreement": []}
            for seed in range(seeds):
                drawn = {"select": way, "images": count, "seed": seed}
                found = answer(plan, load_recipe("minmax").model_copy(update=drawn))
                noise = float(np.square(found - float_, dtype=np.float64).sum())
                signal = float(np.square(float_, dtype=np.float64).sum())
                rows["decibels"].append(10 * float(np.log10(signal / noise)))
                best, same = float_.argmax(axis=1), found.argmax(axis=1)
                rows["drop_points"].append(compare_paired(best, same, labels).points)
                rows["agreement"].append(float(np.mean(best == same)))
            figures[f"{way}, {count} photos"] = {
                **{f"median_{name}": statistics.median(values) for name, values in rows.items()},
                **rows,
            }
            print(f"  {way}, {count} photos: {figures[f'{way}, {count} photos']['median_decibels']:.2f} dB", flush=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", type=Path, required=True)
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for network, said in builds_of(options.nets, Path(folder) / "out").items():
            if options.only and network not in options.only:
                continue
            print(network, file=sys.stderr, flush=True)
            settings = BuildSettings.model_validate({**said, "out": Path(folder) / "out" / network})
            if not make_plan(settings, Quiet()).reference.done:
                build(settings, Shown())
            plan = make_plan(settings, Quiet())
            figures[network] = compare(plan, options.seeds)
    save_result("calibration_selection", {"networks": figures})


if __name__ == "__main__":
    main()
