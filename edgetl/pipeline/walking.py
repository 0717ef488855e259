"""Walks the line: makes each stage that is not there yet, then writes the bundle in one step."""

from __future__ import annotations

import time
from collections import Counter
from functools import partial
from pathlib import Path

from edgetl.bundle import Bundle, write_bundle
from edgetl.data import Check
from edgetl.metrics import least_provable
from edgetl.pipeline.compose import compose
from edgetl.pipeline.ladder import prove_bundle
from edgetl.pipeline.plan import Plan
from edgetl.pipeline.stages import Stage
from edgetl.pipeline.steps import STEPS
from edgetl.pipeline.variants import choose, said_of, variants
from edgetl.records import Progress

__all__ = ["walk"]

# Photos that are named on the screen, of each kind; all are named in the report.
NAMED = 20
# Training photos of a class below which what is learned of it is mostly luck.
FEW = 20


def walk(plan: Plan, progress: Progress, force: bool, anew: set[Path], started: float) -> Bundle:
    """Return the bundle of a plan.

    Args:
        plan: what to build.
        progress: shows the stages.
        force: make every stage anew that is not in `anew`.
        anew: the stages that this run has made; grows.
        started: when the build began, by `time.perf_counter`.
    """
    tried: list[Plan] = []
    for variant in variants(plan, progress, force):
        if tried:
            progress.say(f"{said_of(tried[-1], tried)}. Next: {variant.way}")
        tried.append(variant)
        for stage in variant.stages:
            if len(tried) == 1 or stage not in tried[-2].stages:
                _make(variant, stage, progress, force, anew)
    chosen = choose(tried)
    return write_bundle(
        plan.settings.out, lambda folder: compose(chosen, tried, folder, started), partial(prove_bundle, chosen)
    )


def _make(plan: Plan, stage: Stage, progress: Progress, force: bool, anew: set[Path]) -> None:
    """Make a stage where it is not there, or is not in `anew` and is forced."""
    again = force and stage.folder not in anew
    begun, found = time.perf_counter(), stage.done and not again
    stage.make(partial(STEPS[stage.name], plan, progress), anew=again)
    anew.add(stage.folder)
    progress.say(f"{stage.name}: {'already done' if found else f'{time.perf_counter() - begun:.1f} s'}")
    if stage is plan.photos.check:
        plan.photos.refuse_bad()
        _tell(plan, progress)


def _tell(plan: Plan, progress: Progress) -> None:
    """Name what the check found and the build goes on with: what is left out, what stands under several labels, classes
    with few photos, and what so many cannot prove."""
    found, budget = plan.photos.check.read("check", Check), plan.target.budget.accuracy_drop_points
    kinds = {
        "left out, for they cannot be read": [f"{bad.path}: {bad.reason}" for bad in found.bad],
        "left out of training, for they are measured on": [f"{leak.train} is {leak.measured}" for leak in found.leaks],
        "under several labels, and counted under each": [" is ".join(conflict.paths) for conflict in found.conflicts],
    }
    for what, lines in kinds.items():
        for line in lines[:NAMED]:
            progress.say(line)
        if lines:
            progress.say(f"photos {what}: {len(lines)}; all are named in report.json")
    if found.copies:
        progress.say(f"copies of another photo of their split: {found.copies}; all are named in report.json")
    counts = Counter(item.label for item in plan.photos.usable.of("train"))
    few = [f"{label} {counts[number]}" for number, label in plan.photos.dataset.classes.items() if counts[number] < FEW]
    if few:
        progress.say(f"few photos to train on: {', '.join(few)}. Twenty a class are a good start, a hundred are better")
    held = len(plan.photos.held)
    if plan.settings.strict_budget and plan.lower_precisions and (least := least_provable(held)) > budget:
        progress.say(
            f"--strict-budget: where none of {held} held-out photos is lost, up to {least:.1f} points may be all the "
            f"same, so nothing below float32 can be expected to be proved inside {budget:g}. Held out is every tenth "
            "photo of training: add more, or allow more with --budget"
        )
