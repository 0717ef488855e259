"""Says what to try next: where what was quantized does not pay, another recipe, quantization-aware training where that
was asked for, then layers that go back to float; where it pays, one scale for each weight, which may be faster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx

from edgetl.data import image_batches, labels_of
from edgetl.metrics import compare_paired
from edgetl.pipeline.plan import Plan
from edgetl.pipeline.results import Calibrated, Judged, Ranked
from edgetl.pipeline.stages import Stage, write_record
from edgetl.quantize import always_float, can_tell, rank_layers
from edgetl.records import Precision, Progress
from edgetl.runtime import PLANNED, devices_of

__all__ = ["choose", "judged_of", "said_of", "variants"]

# Whose ranges recipes choose; its rest may be in another precision.
INT8: Precision = "int8"
# So many of the layers that hurt most go back to float, try after try.
GIVEN_BACK = (1, 2, 4, 8)
# The method of recipes that place pairs of Q/DQ in a way of their own.
PLACES = "nncf"
# Its convolution goes through the scales of all channels at each call: seen on 2 cores, INT8 mobilenet_v2 at 64 pixels
# takes 0.94 of the time with one scale for each weight.
READS_SCALES = "onnxruntime"
# What leaves so many decibels less than another that was refused, twice the noise, and loses less was lucky, unless it
# answers better beyond what chance explains with this probability.
LESS_SIGNAL, CHANCE = 3.0, 0.05
# Training photos that layers are ranked on.
RANKED_ON = 16


def variants(plan: Plan, progress: Progress, force: bool = False) -> Iterator[Plan]:
    """Yield what to try, one plan after the other, as long as what the target prefers does not pay and quantizing
    otherwise may lose less or be faster, and then what may be faster still; each is judged before the next is asked
    for. `force` ranks layers anew."""
    tried = []
    for each in _until_it_pays(plan, progress, force):
        tried.append(each)
        yield each
    if _may_be_faster(best := choose(tried)):
        yield best.per_tensor


def _until_it_pays(plan: Plan, progress: Progress, force: bool) -> Iterator[Plan]:
    """Yield what to try until something pays, or nothing can."""
    yield plan
    if not plan.calibrates:
        return
    tried = [plan]
    # Where TensorRT and a GPU are here, each way needs a plan, which takes minutes.
    here = plan.target.engine.name == PLANNED and devices_of(PLANNED)
    for recipe in () if here else plan.recipes[1:]:
        if _ends(tried):
            break
        alike = [each for each in tried if (each.recipe.method == PLACES) == (recipe.method == PLACES)]
        if not alike or _loses_too_much(alike[-1]) or _better_refused(alike[-1], tried):
            tried.append(plan.vary(recipe))
            yield tried[-1]
    fast = [each for each in tried if _loses_too_much(each) and _is_fast(each)]
    if fast and not _ends(tried):
        sound = [each for each in fast if _better_refused(each, fast) is None]
        yield from _remedies(min(sound, key=_lost), tried, progress, force)
    elif plan.settings.qat:
        slow = "INT8 would be no faster than float here, whatever it loses"
        progress.say(f"--qat is left out: {'INT8 loses nothing that must be won back' if _ends(tried) else slow}")


def _remedies(nearest: Plan, tried: Sequence[Plan], progress: Progress, force: bool) -> Iterator[Plan]:
    """Yield what may let a plan lose less that is fast but loses too much, as others that were tried do."""
    if nearest.settings.qat:
        aware = nearest.vary(aware=True)
        yield aware
        if not _loses_too_much(aware):
            return
        nearest = min((nearest, aware), key=_lost)
    if nearest.target.engine.name == PLANNED:  # it has FP16 in place of layers in float
        return
    worst = _rank(nearest, progress, force)
    for count in GIVEN_BACK:
        if count > len(worst) // 2:
            return
        variant = nearest.vary(float_layers=worst[:count])
        yield variant
        if not _loses_too_much(variant) and _better_refused(variant, tried) is None:
            return


def choose(tried: Sequence[Plan]) -> Plan:
    """Return the plan that ships: the last that pays and was not lucky, else the first."""
    good = (each for each in reversed(tried) if _pays(each) and _better_refused(each, tried) is None)
    return next(good, tried[0])


def said_of(plan: Plan, tried: Sequence[Plan]) -> str:
    """Return what is to be said of a plan that was judged: the verdict's reason, and that it was lucky, if it was
    beside others that were tried."""
    reason = judged_of(plan).verdict.reason
    better = _better_refused(plan, tried) if _pays(plan) else None
    if better is None:
        return reason
    ours, theirs = (_signal(each) for each in (plan, better))
    return (
        f"{reason}. But it leaves {ours:.1f} dB of signal where {better.way}, which was refused, leaves {theirs:.1f}, "
        "and answers no better beyond chance: it was lucky, and does not ship"
    )


def judged_of(plan: Plan) -> Judged:
    """Return what a plan came to, once it is judged."""
    return plan.judged.read("judged", Judged)


def _pays(plan: Plan) -> bool:
    """Say whether something was chosen that was not refused, nor what the target prefers to it; and whether what was to
    be faster than a rival is."""
    verdict = judged_of(plan).verdict
    if plan.rival and verdict.precision != judged_of(plan.rival).verdict.precision:
        return False
    return verdict.precision not in verdict.outside and not _asks_for_more(plan)


def _better_refused(plan: Plan, tried: Sequence[Plan]) -> Plan | None:
    """Return a plan that was refused for what it loses though its INT8 leaves far more signal than this one's, which
    answers no better beyond chance; None where there is none. What was trained on is another network, whose signal
    tells nothing."""
    int8 = _int8_of(plan)
    for other in tried:
        refused = other is not plan and other.aware == plan.aware and int8 in judged_of(other).verdict.outside
        if refused and _signal(other) >= _signal(plan) + LESS_SIGNAL and not _answers_better(plan, other):
            return other
    return None


def _signal(plan: Plan) -> float:
    """Return how much signal INT8 leaves, in decibels."""
    return judged_of(plan).of(_int8_of(plan)).signal_db


def _answers_better(plan: Plan, other: Plan) -> bool:
    """Say whether a plan's INT8 answers better than another's, beyond chance."""
    best, others = (each.held_logits[_int8_of(each)].argmax(axis=1) for each in (plan, other))
    drop = compare_paired(best, others, labels_of(plan.photos.held))
    return drop.points > 0 and drop.p_value < CHANCE


def _int8_of(plan: Plan) -> Precision:
    """Return the INT8 that the target likes best, whatever its rest is in."""
    return next((each for each in plan.lower_precisions if each.startswith(INT8)), INT8)


def _may_be_faster(plan: Plan) -> bool:
    """Say whether INT8 pays, was timed beside a float that may ship in its place, and has a scale for each channel on
    an engine that is slower for it; where photos are too few to tell what that costs, it is not worth it."""
    verdict, engine, recipe = judged_of(plan).verdict, plan.target.engine, plan.recipe
    by_channels = engine.name == READS_SCALES and recipe.per_channel and recipe.method != PLACES
    chosen = verdict.precision == "int8" and verdict.speed_up is not None and "fp32" in engine.precisions
    told = can_tell(verdict.drop.images, plan.target.budget.accuracy_drop_points)
    return by_channels and chosen and told and _pays(plan)


def _asks_for_more(plan: Plan) -> bool:
    """Say whether quantizing otherwise may help: what the target prefers was refused for something else."""
    return _loses_too_much(plan) or _is_too_slow(plan)


def _ends(tried: Sequence[Plan]) -> bool:
    """Say whether nothing more need be tried after the last plan, or nothing can help: where nothing was lost and that
    is no proof, nothing loses less."""
    last, judged = tried[-1], judged_of(tried[-1])
    if last.settings.strict_budget and judged.verdict.outside:
        return not any(judged.of(each).held_out_drop.lost for each in judged.verdict.outside)
    return not _asks_for_more(last) and _better_refused(last, tried) is None


def _loses_too_much(plan: Plan) -> bool:
    """Say whether something that the target prefers to what ships was refused for what it loses: what is too slow is
    not helped by layers in float, nor by other ranges."""
    verdict = judged_of(plan).verdict
    return bool(verdict.outside) and verdict.precision not in verdict.outside


def _is_too_slow(plan: Plan) -> bool:
    """Say whether what the target prefers was refused for its speed: other ranges do not help that, but pairs of Q/DQ
    at other places may."""
    verdict, preferred = judged_of(plan).verdict, plan.target.engine.precisions[0]
    return preferred not in {"fp32", verdict.precision, *verdict.outside}


def _is_fast(plan: Plan) -> bool:
    """Say whether something that was refused for its loss would have been faster than float, as far as is known."""
    judged = judged_of(plan)
    latencies = [judged.of(each).p50_ms for each in ("fp32", *judged.verdict.outside)]
    plain = latencies[0]
    return plain is None or any(each is None or each < plain for each in latencies[1:])


def _lost(plan: Plan) -> float:
    """Return the points that the best of what was refused loses."""
    judged = judged_of(plan)
    return min(judged.of(each).held_out_drop.points for each in judged.verdict.outside)


def _rank(plan: Plan, progress: Progress, force: bool) -> tuple[str, ...]:
    """Return the layers that quantization hurts most, worst first; ranked once for all builds that ask."""
    engine = plan.target.engine.name
    stage = Stage.of("ranked", ("pipeline/variants",), plan.calibrated, engine)

    def rank(folder: Path) -> None:
        items = plan.calibration_photos[:RANKED_ON]
        (images,) = image_batches(plan.photos.usable, items, plan.faced, RANKED_ON)
        statistics, core = plan.calibrated.read("calibrated", Calibrated).statistics, onnx.load(plan.lower_core)
        ranked = rank_layers(core, statistics, plan.recipe, images, progress, always_float(engine, core, plan.recipe))
        write_record(folder, "ranked", Ranked(decibels=ranked))

    stage.make(rank, anew=force)
    return tuple(stage.read("ranked", Ranked).decibels)
