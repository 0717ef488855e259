"""Measure what quantization-aware training gives back of what INT8 loses: `--qat` against quantizing alone.

    python benchmarks/quantization_aware.py --nets NETS --only mobilenet_v3_small [--target cpu] [--qat 2]

The networks are those of `quantize_vs_peers.py`, the recipe is the target's first. Both ways are measured whether a
build would have asked for the training or not, on the photos that nothing was chosen by, paired with float as it was.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from quantize_vs_peers import Shown, builds_of
from recording import save_result

from edgetl.bench import answer_all
from edgetl.data import labels_of
from edgetl.metrics import accuracy, compare_paired
from edgetl.pipeline import BuildSettings, Plan, build, make_plan
from edgetl.pipeline.artifacts import open_written
from edgetl.pipeline.results import CompiledStage, Tuned
from edgetl.pipeline.steps import STEPS
from edgetl.records import FloatArray, Quiet


def answers(plan: Plan) -> FloatArray:
    """Return what INT8 answers for the photos that nothing was chosen by, its stages made where they are not there."""
    for stage in plan.stages:
        if stage.name == plan.answered.name:
            break
        stage.make(partial(STEPS[stage.name], plan, Shown()))
    artifact = plan.as_run(plan.compiled.read("compiled", CompiledStage).of("int8"))
    rows = plan.photos.rows_of(plan.photos.unseen)
    with closing(open_written(plan.compiled.folder, artifact)) as session:
        return answer_all({"int8": session}, plan.read_kept(rows), len(rows), "answering", Quiet())["int8"]


def compare(plan: Plan) -> dict[str, Any]:
    """Return what both ways lose, and what the training came to."""
    labels, float_ = labels_of(plan.photos.unseen), plan.floats[len(plan.photos.held) :]
    aware = plan.vary(aware=True)
    found = {"quantized": answers(plan), "trained_aware": answers(aware)}
    best = {name: logits.argmax(axis=1) for name, logits in found.items()}
    drops = {name: compare_paired(float_.argmax(axis=1), each, labels) for name, each in best.items()}
    beside = compare_paired(best["quantized"], best["trained_aware"], labels)
    return {
        "images": len(labels),
        "recipe": plan.recipe.name,
        "float_accuracy": accuracy(float_.argmax(axis=1), labels),
        "drop_points": {name: drop.points for name, drop in drops.items()},
        "interval": {name: drop.interval for name, drop in drops.items()},
        "decibels": {
            name: 10 * float(np.log10(np.square(float_).sum() / np.square(logits - float_).sum()))
            for name, logits in found.items()
        },
        "trained_aware_loses_more_p": {"points": beside.points, "p_value": beside.p_value},
        "epochs": [each.model_dump(mode="json") for each in aware.qat.read("tuned", Tuned).history.epochs],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", type=Path, required=True)
    parser.add_argument("--only", nargs="+", required=True)
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--qat", type=int, default=2)
    options = parser.parse_args()
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for network, said in builds_of(options.nets, Path(folder) / "out").items():
            if network not in options.only:
                continue
            print(network, file=sys.stderr, flush=True)
            out = Path(folder) / "out" / network
            settings = BuildSettings.model_validate({**said, "target": options.target, "out": out})
            build(settings, Shown())
            figures[network] = compare(make_plan(settings.model_copy(update={"qat": options.qat}), Quiet()))
    save_result("quantization_aware", {"target": options.target, "networks": figures})


if __name__ == "__main__":
    main()
