"""Says what to try next: where what was quantized does not pay, another recipe, quantization-aware training where that
was asked for, then layers that go back to float; where it pays, one scale for each weight, which may be faster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx

from edgetl.data import image_batches
from edgetl.pipeline.plan import Plan
from edgetl.pipeline.results import Calibrated, Judged, Ranked
from edgetl.pipeline.stages import Stage, write_record
from edgetl.quantize import always_float, rank_layers
from edgetl.records import Progress
from edgetl.runtime import PLANNED

__all__ = ["choose", "judged_of", "variants"]

# So many of the layers that hurt most go back to float, try after try.
GIVEN_BACK = (1, 2, 4, 8)
# The method of recipes that place pairs of Q/DQ in a way of their own.
PLACES = "nncf"
# Its convolution goes through the scales of all channels at each call: seen on 2 cores, INT8 mobilenet_v2 at 64 pixels
# takes 0.94 of the time with one scale for each weight.
READS_SCALES = "onnxruntime"
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
    """Yield what to try until something pays."""
    yield plan
    if not plan.calibrates:
        return
    tried = [plan]
    # TensorRT takes minutes to make a plan.
    others = () if plan.target.engine.name == PLANNED else plan.recipes[1:]
    for recipe in others if _asks_for_more(plan) else ():
        alike = [each for each in tried if (each.recipe.method == PLACES) == (recipe.method == PLACES)]
        if not alike or _loses_too_much(alike[-1]):
            tried.append(plan.vary(recipe))
            yield tried[-1]
            if not _asks_for_more(tried[-1]):
                return
    if fast := [each for each in tried if _loses_too_much(each) and _is_fast(each)]:
        yield from _remedies(min(fast, key=_lost), progress, force)
    elif plan.settings.qat:
        progress.say("--qat is left out: INT8 would be no faster than float here, whatever it loses")


def _remedies(nearest: Plan, progress: Progress, force: bool) -> Iterator[Plan]:
    """Yield what may let a plan lose less that is fast but loses too much."""
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
        if not _loses_too_much(variant):
            return


def choose(tried: Sequence[Plan]) -> Plan:
    """Return the plan that ships: the last that pays, else the first."""
    return next((each for each in reversed(tried) if _pays(each)), tried[0])


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


def _may_be_faster(plan: Plan) -> bool:
    """Say whether INT8 pays, was timed beside a float that may ship in its place, and has a scale for each channel on
    an engine that is slower for it."""
    verdict, engine, recipe = judged_of(plan).verdict, plan.target.engine, plan.recipe
    by_channels = engine.name == READS_SCALES and recipe.per_channel and recipe.method != PLACES
    chosen = verdict.precision == "int8" and verdict.speed_up is not None and "fp32" in engine.precisions
    return by_channels and chosen and _pays(plan)


def _asks_for_more(plan: Plan) -> bool:
    """Say whether quantizing otherwise may help: what the target prefers was refused for something else."""
    return _loses_too_much(plan) or _is_too_slow(plan)


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
