"""Small datasets and backbones for the tests of the finetune room."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from edgetl.backbones import Backbone, choose_weights, load_backbone
from edgetl.data import Dataset, read_dataset
from edgetl.finetune import Workbench
from edgetl.records import Quiet


@pytest.fixture(scope="session")
def cpu() -> torch.device:
    return torch.device("cpu")


@pytest.fixture
def load() -> Callable[..., Backbone]:
    """Return a function that loads a random backbone for photos of 32 pixels: load("squeezenet1_1")."""

    def load(name: str = "squeezenet1_1", seed: int = 0) -> Backbone:
        full = f"torchvision/{name}"
        return load_backbone(full, choose_weights(full, "random", seed), side=32, seed=seed)

    return load


@pytest.fixture(scope="session")
def bench(dataset: Dataset, cpu: torch.device) -> Workbench:
    """Return a silent workbench on the photos of three colours."""
    return Workbench(dataset=dataset, device=cpu, progress=Quiet())


@pytest.fixture(scope="session")
def dataset(colours: Path) -> Dataset:
    """Return 36 photos of three colours, 30 of them in train."""
    return read_dataset(str(colours), seed=0)
