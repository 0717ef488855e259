"""Decides which candidate ships: quantized only if it pays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgetl.metrics import compare_paired
from edgetl.records import IntArray, Precision, Record
from edgetl.target import TargetProfile

__all__ = ["Candidate", "Verdict", "allowed_drop", "decide"]

# Less than this is within the noise of timing on a shared machine, and would make the verdict a matter of luck.
LEAST_SPEED_UP = 1.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One artifact that could ship: its speed, None where it was not measured on the device's kind of machine, and its
    classes for the held-out photos, shape (images,)."""

    latency_p50_ms: float | None
    answers: IntArray


class Verdict(Record):
    """Which precision ships, and why, in one sentence; `speed_up` is None where it was not measured."""

    precision: Precision
    reason: str
    drop_points: float
    speed_up: float | None


def allowed_drop(budget_points: float, images: int) -> float:
    """Return the accuracy drop that is inside a budget, in points; one image is, however fine the budget."""
    return max(budget_points, 100.0 / images) + 1e-9


def decide(candidates: Mapping[Precision, Candidate], actual: IntArray, target: TargetProfile) -> Verdict:
    """Return the verdict: the first candidate, in the target's order, that is inside its budget and faster than float.

    The drop is paired, image by image. Where the budget is finer than one held-out photo, one photo is allowed. Where
    speed was not measured, the target's order of precisions stands for it.

    Args:
        candidates: by precision; `fp32`, which the others are held against, and those of the target's that were tried.
        actual: the true classes of the held-out photos, shape (images,).
        target: whose budget and precisions count.
    """
    allowed = target.engine.precisions
    if allowed[0] == "fp32":
        only = "allows float only" if len(allowed) == 1 else "prefers float"
        return Verdict(precision="fp32", reason=f"{target.name} {only}", drop_points=0.0, speed_up=1.0)
    refused = []
    before = allowed[: allowed.index("fp32")] if "fp32" in allowed else allowed
    for precision in filter(candidates.__contains__, before):
        verdict, good = _weigh(precision, candidates, actual, target)
        if good:
            return verdict
        refused.append(verdict)
    if "fp32" in allowed:
        return refused[0].model_copy(update={"precision": "fp32", "reason": "; ".join(each.reason for each in refused)})
    return min(refused, key=lambda each: each.drop_points)


def _weigh(
    precision: Precision, candidates: Mapping[Precision, Candidate], actual: IntArray, target: TargetProfile
) -> tuple[Verdict, bool]:
    """Return the verdict on one precision, and whether it may ship."""
    float_, candidate = candidates["fp32"], candidates[precision]
    paired = compare_paired(float_.answers, candidate.answers, actual)
    budget, name = target.budget.accuracy_drop_points, precision.upper()
    allowed = allowed_drop(budget, paired.images)
    points = f"{abs(paired.drop_points):.2f}" if paired.drop_points else "no"
    change = f"{points} points {'gained' if paired.drop_points < 0 else 'lost'} on {paired.images} held-out photos"
    speed_up = None
    if float_.latency_p50_ms is not None and candidate.latency_p50_ms is not None:
        speed_up = float_.latency_p50_ms / candidate.latency_p50_ms
    good = False
    finer = ""
    if budget < paired.drop_points <= allowed:
        finer = f" as far as so few photos tell, one being {100.0 / paired.images:.2f}"
    if paired.drop_points > allowed:
        reason = f"{name} is outside the budget of {budget:g} points: {change}"
    elif speed_up is None:
        reason, good = (
            f"{name} is inside the budget of {budget:g} points{finer}: {change}; its speed was not measured here",
            True,
        )
    elif target.engine.precisions == (precision,):
        reason, good = f"{target.name} allows {name} only: {change}", True
    elif speed_up < LEAST_SPEED_UP and "fp32" in target.engine.precisions:
        reason = f"{name} is not faster beyond the noise of timing: {speed_up:.2f}x the speed of float"
    else:
        reason, good = (
            f"{name} is {speed_up:.2f}x faster and inside the budget of {budget:g} points{finer}: {change}",
            True,
        )
    return Verdict(precision=precision, reason=reason, drop_points=paired.drop_points, speed_up=speed_up), good
