"""Decides which candidate ships: quantized only if it pays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgetl.metrics import compare_paired
from edgetl.records import IntArray, Precision, Record
from edgetl.target import TargetProfile

__all__ = ["Candidate", "Verdict", "allowed_drop", "decide"]

# Less than this is within the noise of timing on a shared machine, and would make the verdict a matter of luck.
LEAST_SPEED_UP = 1.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One artifact that could ship: its speed here, and its classes for the held-out photos, shape (images,)."""

    latency_p50_ms: float
    answers: IntArray


class Verdict(Record):
    """Which precision ships, and why, in one sentence."""

    precision: Precision
    reason: str
    drop_points: float
    speed_up: float


def allowed_drop(budget_points: float, images: int) -> float:
    """Return the accuracy drop that is inside a budget, in points; one image is, however fine the budget."""
    return max(budget_points, 100.0 / images) + 1e-9


def decide(float_: Candidate, int8: Candidate | None, actual: IntArray, target: TargetProfile) -> Verdict:
    """Return the verdict: INT8 if its accuracy drop is inside the target's budget and it is faster, else float.

    The drop is paired, image by image. Where the budget is finer than one held-out photo, one photo is allowed.

    Args:
        float_: the float artifact.
        int8: the quantized one; None where the target allows none.
        actual: the true classes of the held-out photos, shape (images,).
        target: whose budget counts.
    """
    if int8 is None:
        return Verdict(precision="fp32", reason=f"{target.name} allows float only", drop_points=0.0, speed_up=1.0)
    paired = compare_paired(float_.answers, int8.answers, actual)
    speed_up = float_.latency_p50_ms / int8.latency_p50_ms
    budget = target.budget.accuracy_drop_points
    allowed = allowed_drop(budget, paired.images)
    measured: dict[str, Any] = {"drop_points": paired.drop_points, "speed_up": speed_up}
    points = f"{abs(paired.drop_points):.2f}" if paired.drop_points else "no"
    change = f"{points} points {'gained' if paired.drop_points < 0 else 'lost'} on {paired.images} held-out photos"
    if "fp32" not in target.engine.precisions:
        return Verdict(precision="int8", reason=f"{target.name} allows INT8 only: {change}", **measured)
    if paired.drop_points > allowed:
        return Verdict(
            precision="fp32", reason=f"INT8 is outside the budget of {budget:g} points: {change}", **measured
        )
    if speed_up < LEAST_SPEED_UP:
        return Verdict(
            precision="fp32",
            reason=f"INT8 is not faster beyond the noise of timing: {speed_up:.2f}x the speed of float",
            **measured,
        )
    finer = f", one photo being {100.0 / paired.images:.2f}" if allowed > budget and paired.drop_points > budget else ""
    return Verdict(
        precision="int8",
        reason=f"INT8 is {speed_up:.2f}x faster and inside the budget of {budget:g} points{finer}: {change}",
        **measured,
    )
