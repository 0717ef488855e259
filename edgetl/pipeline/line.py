"""Walks the line: makes each stage that is not there yet, then writes the bundle in one step."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from edgetl.bundle import Bundle, write_bundle
from edgetl.data import Check
from edgetl.errors import BundleError
from edgetl.pipeline.compose import compose
from edgetl.pipeline.ladder import prove_bundle
from edgetl.pipeline.plan import Plan
from edgetl.pipeline.prepare import make_plans
from edgetl.pipeline.settings import BuildSettings
from edgetl.pipeline.stages import Stage
from edgetl.pipeline.steps import STEPS
from edgetl.pipeline.variants import choose, judged_of, variants
from edgetl.records import Progress, Quiet

__all__ = ["build", "build_each"]

# Photos that are named on the screen, of each kind; all are named in the report.
NAMED = 20
# Training photos of a class below which what is learned of it is mostly luck.
FEW = 20


def build(settings: BuildSettings, progress: Progress | None = None, force: bool = False) -> Bundle:
    """Return the bundle of these settings, written at `settings.out`; its `report.json` says what was measured.

    Stages that an earlier build left are used as they are; a bundle of the same settings is returned at once.

    Args:
        settings: what to build.
        progress: shows the stages; nothing is shown without it.
        force: make every stage anew.

    Raises:
        EdgetlError: of the kind that says what is wrong; what was finished is kept, and nothing at `out` has changed.
    """
    return next(build_each([settings], progress, force))


def build_each(
    builds: Sequence[BuildSettings], progress: Progress | None = None, force: bool = False
) -> Iterator[Bundle]:
    """Yield the bundles of builds that differ in `target` and `out` only, each as it is done; raises as `build` does.

    All are planned before the first is begun, and a stage that several share is made once.
    """
    progress = progress or Quiet()
    anew: set[Path] = set()
    started = time.perf_counter()
    for plan in make_plans(builds, progress):
        if len(builds) > 1:
            progress.say(f"target {plan.target.name}")
        yield _build(plan, progress, force, anew, started)
        started = time.perf_counter()


def _build(plan: Plan, progress: Progress, force: bool, anew: set[Path], started: float) -> Bundle:
    """Return the bundle of a plan.

    Args:
        plan: what to build.
        progress: shows the stages.
        force: make every stage anew that is not in `anew`.
        anew: the stages that this run has made; grows.
        started: when the build began, by `time.perf_counter`.
    """
    settings = plan.settings
    if not force and (ready := _ready(plan.bundle.key, settings)):
        progress.say(f"{settings.out} is up to date")
        return ready
    tried: list[Plan] = []
    for variant in variants(plan, progress, force):
        if tried:
            progress.say(f"{judged_of(tried[-1]).verdict.reason}. Next: {variant.way}")
        tried.append(variant)
        for stage in variant.stages:
            if len(tried) == 1 or stage not in tried[-2].stages:
                _make(variant, stage, progress, force, anew)
    chosen = choose(tried)
    return write_bundle(
        settings.out, lambda folder: compose(chosen, tried, folder, started), partial(prove_bundle, chosen)
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
    """Name what the check found and the build goes on with: what is left out, what stands under several labels, and
    classes with few photos."""
    found = plan.photos.check.read("check", Check)
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


def _ready(key: str, settings: BuildSettings) -> Bundle | None:
    """Return the bundle at `out` if it was made from the same things and is whole."""
    try:
        bundle = Bundle.open(settings.out)
        if bundle.manifest.build != key:
            return None
        bundle.check_files()
    except BundleError:
        return None
    return bundle
