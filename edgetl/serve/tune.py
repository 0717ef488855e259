"""Finds how this machine answers most photos a second, and keeps that for the next start."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgetl.bundle import Artifact, Bundle
from edgetl.errors import SettingsError
from edgetl.records import Progress, Record
from edgetl.serve.service import Service
from edgetl.serve.settings import ServeSettings
from edgetl.serve.tuning import Tuning, cores, keep_tuning

__all__ = ["Trial", "Tuned", "candidates", "find_tuning"]

ROUNDS = 3
SECONDS = 1.0
WARM_SECONDS = 0.3
IN_FLIGHT = 8
BATCHES = (4, 8)
DELAY_MS = 2.0
# What is slower by less is no slower: the simpler way is taken.
TIE = 0.97


class Trial(Record):
    """One way to answer: photos a second, and the median of what one took, with several waiting all the time."""

    tuning: Tuning
    photos_a_second: float
    p50_ms: float


class Tuned(Record):
    """What was tried for a model, the best first, and the file that keeps the best."""

    name: str
    in_flight: int
    trials: tuple[Trial, ...]
    path: Path


def find_tuning(settings: ServeSettings, progress: Progress) -> tuple[Tuned, ...]:
    """Return what was found for each model, which later starts use where no flag says otherwise.

    Every way answers the golden photos, decoded and fitted as the server does it, in turn with the others.

    Raises:
        BundleError, MissingError, ParityError: as when they are served.
        SettingsError: a bundle holds no golden photos to measure with, or the result cannot be kept.
    """
    return tuple(_tune(name, settings, progress) for name in settings.bundles)


def _tune(name: str, settings: ServeSettings, progress: Progress) -> Tuned:
    bundle = Bundle.open(settings.bundles[name])
    golden = bundle.manifest.golden
    if golden is None:
        raise SettingsError(f"{bundle.folder}: holds no golden photos to measure with")
    photos = [bundle.read(photo) for photo in golden.images]
    ways = tuple(candidates(bundle.manifest.artifact, cores()))
    taken: dict[Tuning, list[tuple[float, float]]] = {way: [] for way in ways}
    for way in progress.track(ROUNDS * ways, f"{name}: ways to answer, in turn", ROUNDS * len(ways)):
        alone = settings.model_copy(
            update={
                "bundles": {name: settings.bundles[name]},
                **way.model_dump(),
                "queue": in_flight(),
                "deadline_ms": 600_000.0,
            }
        )
        taken[way].append(asyncio.run(_measure(alone, photos)))
    trials = [
        Trial(
            tuning=way,
            photos_a_second=statistics.median(rate for rate, _ in found),
            p50_ms=statistics.median(p50 for _, p50 in found),
        )
        for way, found in taken.items()
    ]
    most = max(trial.photos_a_second for trial in trials)
    best = next(trial for trial in trials if trial.photos_a_second >= TIE * most)
    rest = sorted((trial for trial in trials if trial is not best), key=lambda trial: -trial.photos_a_second)
    path = keep_tuning(bundle, best.tuning)
    return Tuned(name=name, in_flight=in_flight(), trials=(best, *rest), path=path)


def in_flight() -> int:
    """Return how many requests wait at a time, which is what a batch can be filled from."""
    return max(IN_FLIGHT, 2 * cores())


def candidates(artifact: Artifact, count: int) -> Iterator[Tuning]:
    """Yield the ways to answer on so many cores, the simplest first."""
    ways = [(count, 1), (1, count), (max(1, count // 2), 2)]
    fits = [1, *(batch for batch in BATCHES if artifact.input.shape[0] == -1)]
    if artifact.execution.device != "cpu":  # a plan takes what it was made for
        fits = [1, *(batch for batch in BATCHES if batch <= artifact.execution.batch_profile[2])]
    every = ((workers, threads, batch) for batch in fits for workers, threads in ways)
    for workers, threads, batch in dict.fromkeys(every):
        yield Tuning(workers=workers, threads=threads, batch=batch, delay_ms=DELAY_MS)


async def _measure(settings: ServeSettings, photos: list[bytes]) -> tuple[float, float]:
    """Return photos a second and the median of what one took, in milliseconds."""
    service = Service(settings)
    (name,) = settings.bundles
    await service.models.load(name)
    took: list[float] = []

    async def keep_asking(turn: int, end: float) -> None:
        for number in itertools.count(turn):
            start, photo = time.monotonic(), photos[number % len(photos)]

            async def receive(photo: bytes = photo) -> Mapping[str, Any]:
                return {"type": "http.request", "body": photo}

            await service.predict({"query_string": b"", "headers": []}, receive)
            answered = time.monotonic()
            took.append(answered - start)
            if answered >= end:
                return

    try:
        for seconds in (WARM_SECONDS, SECONDS):
            took.clear()
            start = time.monotonic()
            await asyncio.gather(*(keep_asking(turn, start + seconds) for turn in range(in_flight())))
            passed = time.monotonic() - start
    finally:
        await service.models.close()
    return len(took) / passed, 1000 * statistics.median(took)
