"""Train the networks that quantizers are compared on, from random weights on CIFAR-10, as far as two cores go.

    python benchmarks/train_networks.py --cifar cifar10-jpeg.zip --out DIR [--only NAME ...]

`DIR/<name>.pth` is a torchvision state dict, for `edgetl build --weights`. `DIR/photos` is the data of these builds:
of CIFAR-10's 5,000 training pictures a class, the last 1,000 (the others train here) as `train/<class>/`, and the first
500 of its test pictures as `val/<class>/`. Nothing of this is kept in the repository.
"""

from __future__ import annotations

import argparse
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from pretrain_nano import CLASSES, Recipe, augmented, cycle_rate, read_split
from torch import nn
from torchvision.models import get_model

# Pictures a class that train here, that edgetl trains and calibrates on, and that results are measured on.
PRETRAINED, TRAINED, MEASURED = 4000, 1000, 500
BATCH = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Course:
    """How one network is trained: AdamW, one learning-rate cycle."""

    side: int  # of the enlarged pictures, in pixels
    epochs: int
    rate: float = 2e-3


COURSES = {
    "mobilenet_v2": Course(side=64, epochs=3),
    "shufflenet_v2_x1_0": Course(side=64, epochs=4),
    "mobilenet_v3_small": Course(side=96, epochs=3),
    "vit_b_16": Course(side=32, epochs=1, rate=3e-4),
    "resnet18": Course(side=48, epochs=2),
    "efficientnet_b0": Course(side=64, epochs=2),
}


def build(name: str, course: Course) -> nn.Module:
    """Return an untrained network of torchvision's."""
    size = {"image_size": course.side} if name.startswith("vit_") else {}
    return get_model(name, weights=None, num_classes=len(CLASSES), **size).to(memory_format=torch.channels_last)


def train(name: str, course: Course, pixels: torch.Tensor, labels: torch.Tensor, seed: int) -> nn.Module:
    """Return a trained network.

    Args:
        name: of torchvision's.
        course: how it is trained.
        pixels: uint8 of shape (pictures, 3, 32, 32).
        labels: classes, shape (pictures,).
        seed: of weights, order and augmentation.
    """
    torch.manual_seed(seed)
    model, recipe = build(name, course), Recipe()
    optimizer = torch.optim.AdamW(model.parameters(), lr=course.rate, weight_decay=0.02)
    steps = len(pixels) // BATCH
    for epoch in range(course.epochs):
        generator = torch.Generator().manual_seed(seed * 1000 + epoch)
        order = torch.randperm(len(pixels), generator=generator)[: steps * BATCH]
        started, total, hits = time.perf_counter(), 0.0, 0
        for step, chosen in enumerate(order.split(BATCH)):
            for group in optimizer.param_groups:
                group["lr"] = cycle_rate(course.rate, recipe.warm_up, epoch, course.epochs, step / steps)
            logits = model(augmented(pixels[chosen], course.side, recipe, generator))
            loss = F.cross_entropy(logits, labels[chosen], label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            total += loss.item()
            hits += int((logits.argmax(1) == labels[chosen]).sum())
        print(
            f"{name} epoch {epoch + 1}/{course.epochs} loss {total / steps:.3f} train accuracy "
            f"{hits / len(order):.4f} {time.perf_counter() - started:.0f} s",
            flush=True,
        )
    return model.eval()


def write_photos(source: Path, folder: Path) -> None:
    """Write the pictures that edgetl trains and is measured on."""
    with zipfile.ZipFile(source) as archive:
        for label in CLASSES:
            for split, into, part in (
                ("train", "train", slice(PRETRAINED, PRETRAINED + TRAINED)), ("test", "val", slice(MEASURED)),
            ):  # fmt: skip
                place = folder / into / label
                place.mkdir(parents=True, exist_ok=True)
                for name in sorted(n for n in archive.namelist() if n.startswith(f"{split}/{label}/"))[part]:
                    (place / Path(name).name).write_bytes(archive.read(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", type=Path, required=True, help="zip of train|test/<class>/*.jpg")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=COURSES, nargs="+", default=list(COURSES))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if not (options.out / "photos").exists():
        write_photos(options.cifar, options.out / "photos")
    pixels, labels = read_split(options.cifar, "train")
    ours = np.concatenate([np.flatnonzero(labels.numpy() == one)[:PRETRAINED] for one in range(len(CLASSES))])
    for name in options.only:
        model = train(name, COURSES[name], pixels[ours], labels[ours], options.seed)
        torch.save(model.state_dict(), options.out / f"{name}.pth")


if __name__ == "__main__":
    main()
