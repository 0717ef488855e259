"""Record what the frozen stage takes for many small photos: memory at its peak, and time by the thousand.

    python benchmarks/frozen_memory.py [--photos 10000 100000] [--rounds 2] [--side 32]

The photos are CIFAR-10's, each written as often as it takes, with a little noise so that none is a copy. Each round
runs what the frozen stage runs, for every number of photos, in a process of its own.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from recording import assets, save_result, spread

from edgetl.backbones import choose_weights, load_backbone
from edgetl.data import hold_out, labels_of, read_dataset
from edgetl.finetune import Workbench, fit_head, write_features
from edgetl.records import Quiet

NAME = "edgetl/nano"
SEED = 0
ALONE = "--alone"


def write_photos(source: Path, folder: Path, count: int) -> None:
    """Write so many JPEGs of 32x32 pixels, a folder a class."""
    draw = np.random.default_rng(SEED)
    with zipfile.ZipFile(source) as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")]
        for number in range(count):
            name = names[number % len(names)]
            pixels = np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB")).astype(np.int16)
            noisy = np.clip(pixels + draw.integers(-3, 4, pixels.shape), 0, 255).astype(np.uint8)
            path = folder / name.split("/")[1] / f"{number}.jpg"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(noisy).save(path, quality=95)


def run_alone(folder: str, count: int, side: int) -> None:
    """Print what the frozen stage took for the first so many photos of a folder."""
    dataset = read_dataset(folder, seed=SEED)
    items = sorted(dataset.items, key=lambda item: int(item.path.stem))[:count]
    backbone = load_backbone(NAME, choose_weights(NAME, None, SEED), side)
    bench = Workbench(dataset=dataset, device=torch.device("cpu"), progress=Quiet())
    train, held = hold_out(items, 0.1, SEED)
    before, started = _peak_mb(), time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "features.npy"
        features = write_features(path, backbone, (*train, *held), backbone.preprocess, bench)
        passed = time.perf_counter() - started
        fit_head("linear", [features[: len(train)]], labels_of(train), len(dataset.labels), SEED)
        seconds = time.perf_counter() - started
    print(json.dumps({"before_mb": before, "peak_mb": _peak_mb(), "pass_seconds": passed, "seconds": seconds}))


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument(ALONE, nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        folder, count, side = options.alone
        run_alone(folder, int(count), int(side))
        return
    found: dict[int, list[dict[str, float]]] = {count: [] for count in options.photos}
    with tempfile.TemporaryDirectory() as folder:
        write_photos(assets() / "data" / "cifar10-jpeg.zip", Path(folder), max(options.photos))
        for _ in range(options.rounds):
            for count in options.photos:
                command = [sys.executable, __file__, ALONE, folder, str(count), str(options.side)]
                said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                found[count].append(json.loads(said))
                print(count, found[count][-1], flush=True)
    figures = {
        str(count): {
            "peak_mb": spread([each["peak_mb"] for each in rounds]),
            "ms_a_photo": spread([1000 * each["seconds"] / count for each in rounds]),
            "ms_a_photo_of_the_pass": spread([1000 * each["pass_seconds"] / count for each in rounds]),
        }
        for count, rounds in found.items()
    }
    save_result("frozen_memory", {"backbone": NAME, "side": options.side, "figures": figures, "samples": found})


if __name__ == "__main__":
    main()
