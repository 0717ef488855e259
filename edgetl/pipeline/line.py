"""Walks the line: makes each stage that is not there yet, then writes the bundle in one step."""

from __future__ import annotations

import time
from functools import partial

from edgetl.bundle import Bundle, write_bundle
from edgetl.data import Check
from edgetl.errors import BundleError
from edgetl.pipeline.compose import compose
from edgetl.pipeline.plan import make_plan
from edgetl.pipeline.settings import BuildSettings
from edgetl.pipeline.steps import STEPS
from edgetl.records import Progress, Quiet

__all__ = ["build"]

# Photos that are named on the screen, of each kind; all are named in the report.
NAMED = 20


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
    progress = progress or Quiet()
    started = time.perf_counter()
    plan = make_plan(settings, progress)
    if not force and (ready := _ready(plan.bundle.key, settings)):
        progress.say(f"{settings.out} is up to date")
        return ready
    for stage in plan.stages:
        begun, found = time.perf_counter(), stage.done and not force
        stage.make(partial(STEPS[stage.name], plan, progress), anew=force)
        progress.say(f"{stage.name}: {'already done' if found else f'{time.perf_counter() - begun:.1f} s'}")
        if stage is plan.check:
            plan.refuse_bad()
            _tell(plan.check.read("check", Check), progress)
    return write_bundle(settings.out, lambda folder: compose(plan, folder, started))


def _tell(found: Check, progress: Progress) -> None:
    """Name what the check found and the build goes on with: skipped photos, leaks and copies."""
    for bad in found.bad[:NAMED]:
        progress.say(f"left out: {bad.path}: {bad.reason}")
    for leak in found.leaks[:NAMED]:
        progress.say(f"the same picture is trained on and measured on: {leak.train} and {leak.held_out}")
    kinds = {
        "left out": len(found.bad),
        "trained on and measured on": len(found.leaks),
        "copies of another photo of their split": found.copies,
    }
    for what, count in kinds.items():
        if count:
            progress.say(f"photos that are {what}: {count}; all are named in report.json")


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
