"""The frozen pass: every photo goes through the backbone once, into a memory-mapped cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.lib import format as npy

from edgetl.backbones import Backbone, freeze
from edgetl.data import Item, image_batches
from edgetl.errors import BackboneError
from edgetl.finetune.device import as_input, autocast
from edgetl.finetune.workbench import Workbench
from edgetl.records import FloatArray, Preprocess

__all__ = ["extract_features", "write_features"]

BATCH = 32


def write_features(
    path: Path, backbone: Backbone, items: Sequence[Item], how: Preprocess, bench: Workbench
) -> FloatArray:
    """Return the memory-mapped features at `path` (npy), float32 of shape (items, features), after computing them.

    They are written as they come, so memory stays flat whatever the number of photos, and a full disk is an error
    that the system reports rather than a crash of the mapping.
    """
    with path.open("wb") as file:
        header = npy.header_data_from_array_1_0(np.empty((0, backbone.features), dtype=np.float32))
        npy.write_array_header_1_0(file, {**header, "shape": (len(items), backbone.features)})
        for features in _stream(backbone, items, how, bench, mirror=False):
            file.write(features.tobytes())
    mapped: FloatArray = np.load(path, mmap_mode="r")
    return mapped


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
