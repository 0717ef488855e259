"""The frozen pass: every photo goes through the backbone once, into a memory-mapped cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from edgetl.backbones import Backbone, freeze
from edgetl.data import Item, image_batches, write_rows
from edgetl.errors import BackboneError
from edgetl.finetune.device import as_input, autocast
from edgetl.finetune.workbench import Workbench
from edgetl.records import FloatArray, Preprocess

__all__ = ["extract_features", "write_features"]

BATCH = 32


def write_features(
    path: Path, backbone: Backbone, items: Sequence[Item], how: Preprocess, bench: Workbench
) -> FloatArray:
    """Return the memory-mapped features at `path` (npy), float32 of shape (items, features), after computing them."""
    stream = _stream(backbone, items, how, bench, mirror=False)
    return write_rows(path, stream, (len(items), backbone.features), np.float32)


def extract_features(
    backbone: Backbone, items: Sequence[Item], how: Preprocess, bench: Workbench, mirror: bool = False
) -> FloatArray:
    """Return features in memory, float32 of shape (items, features); for samples that are small."""
    return np.concatenate(list(_stream(backbone, items, how, bench, mirror)))


def _stream(
    backbone: Backbone, items: Sequence[Item], how: Preprocess, bench: Workbench, mirror: bool
) -> Iterator[FloatArray]:
    network = freeze(backbone.module).to(bench.device).to(memory_format=torch.channels_last)
    what = f"frozen pass, {how.fit}{', mirrored' if mirror else ''}"
    with torch.inference_mode(), autocast(bench.device), bench.progress.count(what, len(items)) as advance:
        for images in image_batches(bench.dataset, items, how, BATCH, mirror):
            features = network(as_input(images, how, bench.device)).float().cpu().numpy()
            if not np.isfinite(features).all():
                raise BackboneError(
                    f"{backbone.name} gives features that are not finite, with weights {backbone.weights.source} on "
                    f"{bench.device.type}. Try other --weights, or --device cpu"
                )
            yield features
            advance(len(images))
