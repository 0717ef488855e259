"""Tests of edgetl/finetune/device.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgetl.errors import MissingError, SettingsError
from edgetl.finetune import pick_device
from edgetl.finetune.device import as_input, autocast, normalise
from edgetl.records import Preprocess

HOW = Preprocess(side=8, fit="crop", mean=(124, 116, 104), std=(58.0, 57.0, 56.0))


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)


@pytest.mark.usefixtures("cuda")
def test_auto_takes_cuda_where_it_is() -> None:
    assert pick_device("auto").type == "cuda"
    assert pick_device("cuda").type == "cuda"


@pytest.mark.usefixtures("cuda")
def test_the_cpu_is_taken_where_it_is_asked_for() -> None:
    assert pick_device("cpu").type == "cpu"


@pytest.mark.usefixtures("no_cuda")
def test_auto_takes_the_cpu_where_there_is_no_cuda() -> None:
    assert pick_device("auto").type == "cpu"


@pytest.mark.usefixtures("no_cuda")
def test_cuda_that_is_not_here_is_an_error_and_not_a_silent_cpu() -> None:
    with pytest.raises(MissingError, match=r"device cuda was asked for, but torch \S+ sees no CUDA .* --device cpu or"):
        pick_device("cuda")


def test_another_name_is_an_error() -> None:
    with pytest.raises(SettingsError, match=r"device is 'tpu', but it must be auto, cpu or cuda"):
        pick_device("tpu")


def test_a_cpu_computes_in_full_precision() -> None:
    with autocast(torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_images_become_normalised_channels_last_tensors() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    found = as_input(images, HOW, torch.device("cpu"))
    expected = ((images - np.array(HOW.mean)) / np.array(HOW.std)).transpose(0, 3, 1, 2)
    assert found.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


def test_mirrored_images_are_taken_although_their_rows_run_backwards() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    found = as_input(images[:, :, ::-1], HOW, torch.device("cpu"))
    torch.testing.assert_close(found, as_input(images, HOW, torch.device("cpu")).flip(3))


def test_normalising_leaves_the_pixels_alone() -> None:
    pixels = torch.full((1, 3, 2, 2), 124, dtype=torch.uint8)
    assert normalise(pixels, HOW)[0, 0].abs().max() == 0
    assert pixels.unique().tolist() == [124]
