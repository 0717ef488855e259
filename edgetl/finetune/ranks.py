"""The processes that train one network together, one a GPU, as `accelerate launch` or `torchrun` starts them."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TypeVar

import torch
from torch import nn

from edgetl.errors import missing_library

__all__ = ["Ranks", "join_ranks"]

T = TypeVar("T")
# All but the first wait while it does what is done once.
PATIENCE = timedelta(days=7)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """This process's number among so many; the first, of number 0, decides and writes. One alone is told nothing."""

    number: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process decides and writes."""
        return self.number == 0

    def share(self, batch: Sequence[T]) -> list[T]:
        """Return this process's part of a batch: together they have each photo once."""
        return list(batch[self.number :: self.count])

    def agree(self, value: T) -> T:
        """Return the first process's value, in every process."""
        if self.count == 1:
            return value
        told = [value]
        torch.distributed.broadcast_object_list(told)
        return told[0]

    def sum(self, value: float, device: torch.device) -> float:
        """Return the sum of every process's value."""
        if self.count == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=device)
        torch.distributed.all_reduce(total)
        return float(total)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give every process the sum of all processes' gradients of the parameters that learn."""
        if self.count == 1:
            return
        learning = [each for each in parameters if each.requires_grad]
        gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in learning]
        together = torch.cat([each.reshape(-1) for each in gradients])
        torch.distributed.all_reduce(together)
        start = 0
        for parameter in learning:
            parameter.grad = together[start : start + parameter.numel()].view_as(parameter)
            start += parameter.numel()


@cache
def join_ranks(device: str) -> Ranks:
    """Return this process's place among those that were started together; it waits until all are there.

    Args:
        device: `auto`, `cpu` or `cuda`; each process gets a GPU of its own, where it is not `cpu`.

    Raises:
        MissingError: there are several, and accelerate is not installed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Ranks()
    try:
        from accelerate import PartialState
    except ModuleNotFoundError:
        raise missing_library("accelerate", "train", "train in several processes") from None
    state = PartialState(cpu=device == "cpu" or None, timeout=PATIENCE)
    atexit.register(state.destroy_process_group)
    return Ranks(number=state.process_index, count=state.num_processes)
