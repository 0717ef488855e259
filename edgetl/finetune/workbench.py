"""What every step of training works with."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from edgetl.data import Dataset
from edgetl.records import Progress

__all__ = ["Workbench"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Workbench:
    """Where the photos lie, where the network runs, and who is told how far it is."""

    dataset: Dataset
    device: torch.device
    progress: Progress
