"""Times calls with a monotonic clock: warm-up apart, every sample kept, rivals interleaved."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from edgetl.records import Latency, SpeedUp

__all__ = ["compare_speed", "interleave", "summarise", "time_calls"]

Name = TypeVar("Name", bound=str)
# Fewest samples below which a percentile is not stated (MLPerf Inference's rule, early-stopping table).
FEWEST = {90: 64, 99: 662}
# Sets of rounds drawn again, for a bootstrap interval.
DRAWS = 10_000


def summarise(samples_ms: Sequence[float]) -> Latency:
    """Return the percentiles of latency samples in milliseconds.

    Raises:
        ValueError: there is no sample.
    """
    if not samples_ms:
        raise ValueError("no latency was sampled")
    ordered = np.sort(np.asarray(samples_ms, dtype=np.float64))

    def percentile(rank: int) -> float | None:
        return float(np.percentile(ordered, rank)) if len(ordered) >= FEWEST[rank] else None

    return Latency(
        p50_ms=float(np.median(ordered)),
        p90_ms=percentile(90),
        p99_ms=percentile(99),
        mean_ms=float(ordered.mean()),
        count=len(ordered),
        samples_ms=tuple(round(float(sample), 5) for sample in samples_ms),
    )


def time_calls(call: Callable[[], Any], seconds: float, warm_up_seconds: float) -> list[float]:
    """Return milliseconds of each call made back to back for at least `seconds`, after an untimed warm-up."""
    clock = time.perf_counter
    warm = clock() + warm_up_seconds
    while clock() < warm:
        call()
    samples: list[float] = []
    end = clock() + seconds
    while not samples or clock() < end:
        start = clock()
        call()
        samples.append((clock() - start) * 1000)
    return samples


def compare_speed(before: Latency, after: Latency, rounds: int) -> SpeedUp:
    """Return how many times faster `after` is than `before`, two of what `interleave` gives.

    Each round gives one ratio of medians; the middle one counts, and its 95 % interval is bootstrapped over the rounds,
    for calls of one round are alike (Efron 1979, percentiles, seed 0).

    Args:
        before: its latency.
        after: its latency, from the same run.
        rounds: how many each was timed in.

    Raises:
        ValueError: the samples do not part into so many rounds.
    """
    slow, fast = (np.array(each.samples_ms).reshape(rounds, -1) for each in (before, after))
    ratios = np.median(slow, axis=1) / np.median(fast, axis=1)
    drawn = np.random.default_rng(0).choice(ratios, (DRAWS, rounds))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return SpeedUp(ratio=float(np.median(ratios)), low=float(low), high=float(high))


def interleave(calls: Mapping[Name, Callable[[], Any]], rounds: int, per_round: int) -> dict[Name, Latency]:
    """Return the latency of each call, timed in turn so that a drift of the machine meets all alike.

    Args:
        calls: by name.
        rounds: how often each has its turn; the first turn is warm-up and not counted.
        per_round: calls a turn.
    """
    samples: dict[Name, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            for _ in range(per_round):
                start = time.perf_counter()
                call()
                if turn:
                    samples[name].append((time.perf_counter() - start) * 1000)
    return {name: summarise(taken) for name, taken in samples.items()}
