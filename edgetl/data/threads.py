"""Runs one function over many files in threads, with progress."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from edgetl.records import Progress

__all__ = ["in_threads"]

Given = TypeVar("Given")
Result = TypeVar("Result")

# Each thread may hold one decoded photo of up to 240 MB (80 megapixels).
_MOST_THREADS = 16


def in_threads(work: Callable[[Given], Result], things: Sequence[Given], what: str, progress: Progress) -> list[Result]:
    """Return `work(thing)` for every thing, in order; the first error stops the rest and is raised."""
    threads = max(1, min(os.cpu_count() or 1, _MOST_THREADS))
    with ThreadPoolExecutor(max_workers=threads) as pool:
        try:
            return list(progress.track(pool.map(work, things), what, len(things)))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
