"""The frozen pass: every photo goes through the backbone once, into a memory-mapped cache."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from edgetl.backbones import Backbone, freeze
from edgetl.data import Item, image_batches, write_rows
from edgetl.errors import BackboneError
from edgetl.finetune.augment import AugmentedPhotos, load_photos
from edgetl.finetune.device import as_input, autocast, normalise
from edgetl.finetune.workbench import Workbench
from edgetl.records import FloatArray, Preprocess

__all__ = ["extract_features", "write_features", "write_views"]

BATCH = 32


def write_features(
    path: Path, backbone: Backbone, items: Sequence[Item], how: Preprocess, bench: Workbench
) -> FloatArray:
    """Return the memory-mapped features at `path` (npy), float32 of shape (items, features), after computing them."""
    return write_rows(path, _plain(backbone, items, how, bench), (len(items), backbone.features), np.float32)


def write_views(
    path: Path,
    backbone: Backbone,
    items: Sequence[Item],
    how: Preprocess,
    bench: Workbench,
    views: int,
    mirror: bool,
    seed: int,
) -> FloatArray:
    """Return the memory-mapped features at `path` (npy) of photos that are cropped, mirrored and recoloured anew for
    each view, float32 of shape (views, items, features), after computing them.

    Args:
        path: the file that is written.
        backbone: whose features they are.
        items: the photos.
        how: the preprocessing.
        bench: where the backbone runs, on which photos.
        views: how many.
        mirror: whether a mirrored photo is the same thing.
        seed: of crops and colours.
    """
    batches = [
        [(view, number) for number in range(start, min(start + BATCH, len(items)))]
        for view in range(views)
        for start in range(0, len(items), BATCH)
    ]
    photos = AugmentedPhotos(bench.dataset, items, how, mirror, seed)
    inputs = (
        normalise(pixels.to(bench.device, non_blocking=True), how)
        for pixels, _ in load_photos(photos, batches, bench.device, seed)
    )
    rows = _stream(backbone, inputs, f"frozen pass, {views} views", views * len(items), bench)
    shape = (views, len(items), backbone.features)
    return write_rows(path, rows, (views * len(items), backbone.features), np.float32).reshape(shape)


def extract_features(
    backbone: Backbone, items: Sequence[Item], how: Preprocess, bench: Workbench, mirror: bool = False
) -> FloatArray:
    """Return features in memory, float32 of shape (items, features); for samples that are small."""
    return np.concatenate(list(_plain(backbone, items, how, bench, mirror)))


def _plain(
    backbone: Backbone, items: Sequence[Item], how: Preprocess, bench: Workbench, mirror: bool = False
) -> Iterator[FloatArray]:
    inputs = (as_input(images, how, bench.device) for images in image_batches(bench.dataset, items, how, BATCH, mirror))
    what = f"frozen pass, {how.fit}{', mirrored' if mirror else ''}"
    return _stream(backbone, inputs, what, len(items), bench)


def _stream(
    backbone: Backbone, inputs: Iterable[torch.Tensor], what: str, count: int, bench: Workbench
) -> Iterator[FloatArray]:
    network = freeze(backbone.module).to(bench.device).to(memory_format=torch.channels_last)
    with torch.inference_mode(), autocast(bench.device), bench.progress.count(what, count) as advance:
        for batch in inputs:
            features = network(batch).float().cpu().numpy()
            if not np.isfinite(features).all():
                raise BackboneError(
                    f"{backbone.name} gives features that are not finite, with weights {backbone.weights.source} on "
                    f"{bench.device.type}. Try other --weights, or --device cpu"
                )
            yield features
            advance(len(batch))
