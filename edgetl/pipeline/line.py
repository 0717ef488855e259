"""The line from photos to bundles, for one target or several: what is there already is not made again."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from edgetl.bundle import Bundle
from edgetl.errors import BundleError
from edgetl.pipeline.request import Request, read_requests
from edgetl.pipeline.results import BuildReport
from edgetl.pipeline.settings import BuildSettings
from edgetl.records import Progress, Quiet

__all__ = ["build", "build_each"]


def build(settings: BuildSettings, progress: Progress | None = None, force: bool = False) -> Bundle:
    """Return the bundle of these settings, written at `settings.out`; its `report.json` says what was measured.

    Stages that an earlier build left are used as they are; a bundle of the same settings is returned at once. One that
    misses its budget in the end is written all the same; a warning and its report say so.

    Args:
        settings: what to build.
        progress: shows the stages; nothing is shown without it.
        force: make every stage anew.

    Raises:
        EdgetlError: of the kind that says what is wrong; what was finished is kept, and nothing at `out` has changed.
    """
    bundle = next(build_each([settings], progress, force), None) or Bundle.open(settings.out)
    missed = BuildReport.model_validate_json(bundle.read("report.json")).judged.missed
    if missed:
        warnings.warn(f"{settings.out} misses its budget: {'; '.join(missed)}", stacklevel=2)
    return bundle


def build_each(
    builds: Sequence[BuildSettings], progress: Progress | None = None, force: bool = False
) -> Iterator[Bundle]:
    """Yield the bundles of builds that differ in `target` and `out` only, each as it is done; raises as `build` does.

    All are planned before the first is begun, and a stage that several share is made once. Where several processes were
    started together (`accelerate launch`, `torchrun`), they train together, and the first yields the bundles.
    """
    with _company(builds) as leads:
        if leads:
            yield from _build_each(builds, progress or Quiet(), force)


def _company(builds: Sequence[BuildSettings]) -> AbstractContextManager[bool]:
    """Return a block in which one of the processes that were started together builds, and the others help it."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return nullcontext(True)
    from edgetl.pipeline import lead

    return lead(builds)


def _build_each(builds: Sequence[BuildSettings], progress: Progress, force: bool) -> Iterator[Bundle]:
    started = time.perf_counter()
    requests = read_requests(builds, progress)
    done = {} if force else {place: bundle for place, each in enumerate(requests) if (bundle := _ready(each))}
    plans = {}
    if len(done) < len(requests):
        from edgetl.pipeline import plans_of, walk

        missing = [place for place in range(len(requests)) if place not in done]
        plans = dict(zip(missing, plans_of([requests[place] for place in missing]), strict=True))
    anew: set[Path] = set()
    for place, request in enumerate(requests):
        if len(requests) > 1:
            progress.say(f"target {request.target.name}")
        if place in done:
            progress.say(f"{request.settings.out} is up to date")
            yield done[place]
        else:
            yield walk(plans[place], progress, force, anew, started)
        started = time.perf_counter()


def _ready(request: Request) -> Bundle | None:
    """Return the bundle at `out` if it was made from the same things and is whole."""
    try:
        bundle = Bundle.open(request.settings.out)
        if bundle.manifest.build != request.key:
            return None
        bundle.check_files()
    except BundleError:
        return None
    return bundle
