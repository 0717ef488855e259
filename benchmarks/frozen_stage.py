"""Compare the frozen stage with one plain decode and forward pass over the same photos, in one run.

    python benchmarks/frozen_stage.py [--photos 400] [--rounds 5]

Plain is the loop that anyone would write: open, fit, normalise, forward, batch by batch, nothing kept. Ahead is the
same with photos decoded ahead in threads, as the frozen stage does. The frozen stage also writes the features to disk
and fits the head, its strength chosen by cross-validation among seven.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from recording import assets, save_result, spread

from edgetl.backbones import Backbone, choose_weights, freeze, load_backbone
from edgetl.data import Dataset, Item, balanced, hold_out, image_batches, labels_of, load_image, read_dataset
from edgetl.finetune import Workbench, fit_head, write_features
from edgetl.finetune.device import as_input
from edgetl.records import Quiet

NAME = "torchvision/squeezenet1_1"
BATCH = 32
CPU = torch.device("cpu")


def plain(backbone: Backbone, dataset: Dataset, items: tuple[Item, ...]) -> None:
    how = backbone.preprocess
    with torch.inference_mode():
        for start in range(0, len(items), BATCH):
            images = [load_image(dataset.path_of(item), how) for item in items[start : start + BATCH]]
            backbone.module(as_input(np.stack(images), how, CPU))


def ahead(backbone: Backbone, dataset: Dataset, items: tuple[Item, ...]) -> None:
    how = backbone.preprocess
    with torch.inference_mode():
        for images in image_batches(dataset, items, how, BATCH):
            backbone.module(as_input(images, how, CPU))


def frozen(backbone: Backbone, dataset: Dataset, items: tuple[Item, ...]) -> None:
    train, held = hold_out(items, 0.1, 0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.npy"
        bench = Workbench(dataset=dataset, device=CPU, progress=Quiet())
        features = write_features(path, backbone, (*train, *held), backbone.preprocess, bench)
        fit_head("linear", [features[: len(train)]], labels_of(train), len(dataset.labels), seed=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    weights = assets() / "weights" / "squeezenet1_1-imagenet1k.safetensors"
    backbone = load_backbone(NAME, choose_weights(NAME, str(weights), seed=0))
    freeze(backbone.module).to(memory_format=torch.channels_last)
    dataset = read_dataset(str(assets() / "data" / "trashnet"), seed=0)
    items = balanced(dataset.of("train"), options.photos, seed=0)
    ways = {"plain": plain, "ahead": ahead, "frozen_stage": frozen}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(options.rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way(backbone, dataset, items)
            if turn:  # the first turn warms caches and is not counted
                seconds[name].append(time.perf_counter() - start)
    ratios = {
        f"frozen_stage_over_{name}": spread(
            [a / b for a, b in zip(seconds["frozen_stage"], seconds[name], strict=True)]
        )
        for name in ("plain", "ahead")
    }
    save_result(
        "frozen_stage", {"photos": len(items), "backbone": NAME, "ratios": ratios, "samples": {"seconds": seconds}}
    )


if __name__ == "__main__":
    main()
