"""Tests of edgetl/finetune/features.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgetl.backbones import Backbone
from edgetl.data import Dataset, load_image
from edgetl.finetune import Workbench, write_features, write_views
from edgetl.finetune.augment import AugmentedPhotos
from edgetl.finetune.device import normalise
from edgetl.finetune.features import extract_features
from edgetl.records import FloatArray

Load = Callable[..., Backbone]


def by_torch(backbone: Backbone, dataset: Dataset, mirror: bool = False) -> FloatArray:
    """Return the features in plain torch, one photo at a time."""
    how, rows = backbone.preprocess, []
    for item in dataset.items:
        image = load_image(dataset.path_of(item), how)[:, :: -1 if mirror else 1]
        normal = (image.astype(np.float32) - np.array(how.mean)) / np.array(how.std)
        with torch.inference_mode():
            rows.append(backbone.module(torch.from_numpy(normal.transpose(2, 0, 1)[None].astype(np.float32)))[0])
    return torch.stack(rows).numpy()


def test_what_is_written_is_what_is_returned(load: Load, dataset: Dataset, bench: Workbench, tmp_path: Path) -> None:
    backbone, path = load(), tmp_path / "features.npy"
    features = write_features(path, backbone, dataset.items, backbone.preprocess, bench)
    assert isinstance(features, np.memmap)
    assert (features.shape, features.dtype) == ((36, 512), np.float32)
    np.testing.assert_array_equal(np.load(path), features)


def test_the_file_holds_what_is_computed_in_memory(
    load: Load, dataset: Dataset, bench: Workbench, tmp_path: Path
) -> None:
    backbone = load()
    how = backbone.preprocess
    written = write_features(tmp_path / "f.npy", backbone, dataset.items, how, bench)
    np.testing.assert_array_equal(written, extract_features(backbone, dataset.items, how, bench))


@pytest.mark.parametrize("mirror", [False, True])
def test_each_view_is_what_training_sees_in_an_epoch(
    mirror: bool, load: Load, dataset: Dataset, bench: Workbench, tmp_path: Path
) -> None:
    backbone, items = load(), dataset.items[:40]
    how = backbone.preprocess
    found = write_views(tmp_path / "v.npy", backbone, items, how, bench, views=2, mirror=mirror, seed=3)
    photos = AugmentedPhotos(dataset, items, how, mirror, seed=3)
    assert (found.shape, found.dtype) == ((2, 36, 512), np.float32)
    for view, number in [(0, 0), (1, 0), (1, 35)]:
        pixels, _ = photos[view, number]
        with torch.inference_mode():
            wanted = backbone.module(normalise(pixels[None], how))[0].numpy()
        np.testing.assert_allclose(found[view, number], wanted, rtol=1e-4, atol=1e-5 * float(np.abs(wanted).max()))
    assert not np.array_equal(found[0], found[1])


def test_no_view_is_an_empty_cache(load: Load, dataset: Dataset, bench: Workbench, tmp_path: Path) -> None:
    backbone = load()
    found = write_views(tmp_path / "v.npy", backbone, dataset.items, backbone.preprocess, bench, 0, True, 0)
    assert found.shape == (0, 36, 512)


@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v3_small"])
@pytest.mark.parametrize("mirror", [False, True])
def test_features_are_what_torch_computes_photo_by_photo(
    name: str, mirror: bool, load: Load, dataset: Dataset, bench: Workbench
) -> None:
    backbone = load(name)
    found = extract_features(backbone, dataset.items, backbone.preprocess, bench, mirror)
    expected = by_torch(backbone, dataset, mirror)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * float(np.abs(expected).max()))


def test_the_order_of_the_items_is_kept(load: Load, dataset: Dataset, bench: Workbench) -> None:
    backbone = load()
    how = backbone.preprocess
    forward = extract_features(backbone, dataset.items, how, bench)
    backward = extract_features(backbone, dataset.items[::-1], how, bench)
    assert len(np.unique(forward, axis=0)) == len(dataset.items)
    np.testing.assert_allclose(backward[::-1], forward, rtol=1e-4, atol=1e-5)


def test_the_frozen_pass_leaves_batchnorm_buffers_byte_identical(
    load: Load, dataset: Dataset, bench: Workbench, tmp_path: Path
) -> None:
    backbone = load("mobilenet_v3_small")
    backbone.module.train()
    before = {name: tensor.clone().numpy().tobytes() for name, tensor in backbone.module.named_buffers()}
    write_features(tmp_path / "f.npy", backbone, dataset.items, backbone.preprocess, bench)
    assert before
    assert {name: tensor.numpy().tobytes() for name, tensor in backbone.module.named_buffers()} == before


def test_every_photo_goes_through_the_backbone_once(
    load: Load, dataset: Dataset, bench: Workbench, lines: Any, tmp_path: Path
) -> None:
    backbone, seen = load(), []
    backbone.module.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    write_features(tmp_path / "f.npy", backbone, dataset.items, backbone.preprocess, replace(bench, progress=lines))
    assert sum(seen) == len(dataset.items)
    assert lines.counted == [("frozen pass, crop", 36)]


def test_a_full_disk_is_the_systems_error_and_no_crash_of_the_mapping(
    load: Load, dataset: Dataset, bench: Workbench
) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full, which Linux has")
    backbone = load()
    with pytest.raises(OSError, match="No space left on device"):
        write_features(full, backbone, dataset.items, backbone.preprocess, bench)
