"""Measure how much memory calibration takes beside the network, and that it does not grow with the photos: finding the
ranges, and equalizing channels where the network allows it.

    python benchmarks/calibration_memory.py [--images 200 5000] [--networks squeezenet1_1 resnet50 vit_b_16]
        [--recipes minmax percentile]

Networks of torchvision with random weights, photos of noise at 224 pixels; each calibration in a process of its own.
What is counted is the peak of the process less what it held before, with the graph loaded; the engine's own copy of the
weights is part of it. What is not measured stays as it was recorded.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
from recording import recorded, save_result

from edgetl.quantize import calibrate_equalized
from edgetl.recipe import load_recipe
from edgetl.records import ImageArray, Preprocess, Quiet

SIDE, BATCH = 224, 16
NAME = "calibration_memory"


def export(name: str, path: Path) -> None:
    """Write the core graph of an untrained network."""
    from torchvision.models import get_model

    from edgetl.export import export_graph

    how = Preprocess(side=SIDE, fit="squash", mean=(124, 116, 104), std=(58.4, 57.1, 57.4))
    onnx.save(export_graph(get_model(name, weights=None), how, "dynamo").model, path)


def measure(path: Path, recipe: str, images: int) -> dict[str, float]:
    """Return the megabytes that this process took for one calibration, and the seconds."""
    model = onnx.load(path)
    height, width = (dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[2:])

    def batches(what: str) -> Iterator[ImageArray]:
        drawn = np.random.default_rng(0)
        for start in range(0, images, BATCH):
            count = min(BATCH, images - start)
            yield drawn.integers(0, 256, (count, height, width, 3), dtype=np.uint8)

    before, started = peak_mb(), time.perf_counter()
    calibrate_equalized(model, batches, islice(batches("comparing"), 2), load_recipe(recipe), Quiet())
    return {"before_mb": before, "grown_mb": peak_mb() - before, "seconds": time.perf_counter() - started}


def peak_mb() -> float:
    """Return the most that this process has held by now, in megabytes; `ru_maxrss` would begin at its parent's peak."""
    (line,) = (each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("VmHWM:"))
    return int(line.split()[1]) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[200, 5000])
    parser.add_argument("--networks", nargs="+", default=["squeezenet1_1", "resnet50", "vit_b_16"])
    parser.add_argument("--recipes", nargs="+", default=["minmax", "percentile"])
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        path, recipe, images = options.child
        print(json.dumps(measure(Path(path), recipe, int(images))))
        return
    figures = recorded(NAME).get("networks", {})
    with tempfile.TemporaryDirectory() as folder:
        for name in options.networks:
            path = Path(folder) / f"{name}.onnx"
            export(name, path)
            rows = figures.setdefault(name, {})
            rows["weights_mb"] = path.stat().st_size / 1e6
            for recipe in options.recipes:
                for images in options.images:
                    asked = [sys.executable, __file__, "--child", str(path), recipe, str(images)]
                    ran = subprocess.run(asked, capture_output=True, text=True, check=True)
                    row = f"{recipe}, {images} images"
                    rows[row] = json.loads(ran.stdout.splitlines()[-1])
                    print(name, row, rows[row], flush=True)
                    save_result(NAME, {"networks": figures}, shown=False)


if __name__ == "__main__":
    main()
