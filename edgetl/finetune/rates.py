"""The learning rate over the steps of fine-tuning, as a share of the full one."""

from __future__ import annotations

import math
from collections.abc import Callable

from edgetl.options import Schedule

__all__ = ["SCHEDULES"]

# Share of the steps in which the rate rises, and the shares that it begins with and ends at, of each schedule.
WARM_UP, COLD = 0.1, 0.01
RISE, FROM, TO = 0.3, 1 / 25, 1e-4


def _cosine(done: float) -> float:
    """Return the rate after a share of the steps: a linear rise, then a cosine to zero (Loshchilov and Hutter 2017)."""
    if done < WARM_UP:
        return max(done / WARM_UP, COLD)
    return _fall((done - WARM_UP) / (1 - WARM_UP), 1.0, 0.0)


def _one_cycle(done: float) -> float:
    """Return the rate after a share of the steps: up and down again, both by cosines (Smith and Topin 2018)."""
    return _fall(done / RISE, FROM, 1.0) if done < RISE else _fall((done - RISE) / (1 - RISE), 1.0, TO)


def _fall(done: float, start: float, end: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * done))


SCHEDULES: dict[Schedule, Callable[[float], float]] = {"cosine": _cosine, "one-cycle": _one_cycle}
