"""Decides which candidate ships: quantized only if it pays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgetl.metrics import Drop, compare_paired
from edgetl.outcomes import Verdict
from edgetl.records import IntArray, Precision, SpeedUp
from edgetl.target import TargetProfile

__all__ = ["Candidate", "can_tell", "decide", "is_inside"]

# What is not so many times faster than what could ship already is not worth what it loses.
WORTH = 1.02


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One artifact that could ship: how much faster than float it is, None where that was not measured on the device's
    kind of machine, its classes for the held-out photos, shape (images,), and how much faster it is than one of its
    precision that could ship already, None where there is none."""

    speed_up: SpeedUp | None
    answers: IntArray
    over_rival: SpeedUp | None = None


def is_inside(drop: Drop, budget_points: float, strict: bool) -> bool:
    """Say whether a drop is inside a budget: as measured or, if strict, at the worse end of its interval too."""
    points = drop.interval[1] if strict else drop.points
    return points <= budget_points + 1e-9  # one image is one image in spite of rounding


def can_tell(images: int, budget_points: float) -> bool:
    """Say whether so many images tell what is inside a budget: one that is lost is no more than it, or none may be."""
    return budget_points == 0 or 100.0 / images <= budget_points + 1e-9


def decide(
    candidates: Mapping[Precision, Candidate], actual: IntArray, target: TargetProfile, strict: bool = False
) -> Verdict:
    """Return the verdict: the first candidate, in the target's order, that is inside its budget and faster than float.

    The drop is paired, image by image; a speed-up counts where its interval lies above 1. Where speed was not measured,
    the target's order of precisions stands for it.

    Args:
        candidates: by precision; `fp32`, which the others are held against, and those of the target's that were tried.
        actual: the true classes of the held-out photos, shape (images,).
        target: whose budget and precisions count.
        strict: the worse end of the drop's interval must be inside the budget.
    """
    allowed, float_ = target.engine.precisions, candidates["fp32"].answers
    weighed = len(allowed) > 1 and allowed[0] != "fp32"
    refused: dict[Precision, str] = {}
    drops = {name: compare_paired(float_, each.answers, actual) for name, each in candidates.items()}

    def verdict(precision: Precision, reason: str) -> Verdict:
        outside = (each for each in refused if not is_inside(drops[each], target.budget.accuracy_drop_points, strict))
        return Verdict(
            precision=precision,
            reason=reason,
            remark="" if strict or not weighed else _coarse(len(actual), target.budget.accuracy_drop_points),
            outside=tuple(outside),
            drop=drops[precision],
            speed_up=candidates[precision].speed_up,
        )

    if allowed[0] == "fp32":
        return verdict("fp32", "float is all that is allowed" if len(allowed) == 1 else f"{target.name} prefers float")
    for precision in allowed[: allowed.index("fp32")] if "fp32" in allowed else allowed:
        if precision in candidates:
            reason, good = _weigh(precision, candidates[precision], drops[precision], target, strict)
            if good:
                return verdict(precision, reason)
            refused[precision] = reason
    if "fp32" in allowed:
        return verdict("fp32", "; ".join(refused.values()))
    nearest = min(refused, key=lambda each: drops[each].points)
    return verdict(nearest, refused[nearest])


def _weigh(
    precision: Precision, candidate: Candidate, drop: Drop, target: TargetProfile, strict: bool
) -> tuple[str, bool]:
    """Return what is to be said of one precision, and whether it may ship."""
    speed_up, over_rival = candidate.speed_up, candidate.over_rival
    name, budget, only = precision.upper(), target.budget.accuracy_drop_points, target.engine.precisions == (precision,)
    change = drop.in_words("held-out photos")
    if not is_inside(drop, budget, strict):
        worse = " at the worse end of its interval" if is_inside(drop, budget, strict=False) else ""
        return f"{name} is outside the budget of {budget:g} points{worse}: {change}", False
    inside = f"inside the budget of {budget:g} points: {change}"
    if speed_up is None:
        return f"{name}, whose speed was not measured here, is {inside}", True
    faster = _as_words(speed_up)
    if only:
        return f"{name} is all that may ship, at {faster} the speed of float: {change}", True
    if speed_up.low <= 1.0 and "fp32" in target.engine.precisions:
        return f"{name} is not faster beyond the noise of timing: {faster} the speed of float", False
    times = f"{_as_words(over_rival)} the speed of what could ship before" if over_rival else ""
    if over_rival and (over_rival.low <= 1.0 or over_rival.ratio < WORTH):
        little = "hardly faster" if over_rival.low > 1.0 else "not faster beyond the noise of timing"
        return f"{name} so quantized is {little}: {times}", False
    said = "the speed of float, which may not ship," if speed_up.low <= 1.0 else "faster"
    return f"{name} is {faster} {said}{f' ({times})' if times else ''} and {inside}", True


def _coarse(images: int, budget: float) -> str:
    """Return what so many images cannot tell of a budget, in words; empty where they are enough."""
    if can_tell(images, budget):
        return ""
    return (
        f"One held-out photo is {100.0 / images:.1f} points, so {images} are too few to tell what is inside "
        f"{budget:g}; --strict-budget asks for proof"
    )


def _as_words(speed_up: SpeedUp) -> str:
    return f"{speed_up.ratio:.2f}x ({speed_up.low:.2f} to {speed_up.high:.2f})"
