"""What every step of training works with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from edgetl.data import Dataset
from edgetl.finetune.ranks import Ranks
from edgetl.outcomes import Epoch
from edgetl.records import Progress

__all__ = ["Workbench"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Workbench:
    """Where the photos lie, where the network runs, who is told how far it is, what is told each epoch, and which
    processes train together."""

    dataset: Dataset
    device: torch.device
    progress: Progress
    note: Callable[[Epoch], None] | None = None
    ranks: Ranks = field(default_factory=Ranks)
