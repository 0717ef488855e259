"""Tests of edgetl/bench/timing.py."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from edgetl.bench import timing
from edgetl.bench.timing import compare_speed, interleave, summarise, time_calls
from edgetl.records import Latency


class Clock:
    """A clock that only goes on when a call takes time."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    def call(self, seconds: float) -> Callable[[], None]:
        """Return a call that takes so long."""

        def run() -> None:
            self.now += seconds

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(timing, "time", made)
    return made


class TestSummarise:
    def test_percentiles_are_those_of_numpy(self) -> None:
        samples = np.random.default_rng(0).exponential(3.0, 1000).tolist()
        found = summarise(samples)
        assert found.p50_ms == pytest.approx(np.percentile(samples, 50))
        assert found.p90_ms == pytest.approx(np.percentile(samples, 90))
        assert found.p99_ms == pytest.approx(np.percentile(samples, 99))
        assert (found.mean_ms, found.count) == (pytest.approx(np.mean(samples)), 1000)

    @pytest.mark.parametrize(
        ("count", "p90", "p99"),
        [(1, False, False), (63, False, False), (64, True, False), (661, True, False), (662, True, True)],
    )
    def test_a_percentile_of_too_few_samples_is_not_stated(self, count: int, p90: bool, p99: bool) -> None:
        found = summarise([1.0] * count)
        assert (found.p90_ms is not None, found.p99_ms is not None) == (p90, p99)

    def test_every_sample_is_kept_in_the_order_it_was_taken(self) -> None:
        assert summarise([3.0, 1.0, 2.123456789]).samples_ms == (3.0, 1.0, 2.12346)

    def test_no_sample_has_no_summary(self) -> None:
        with pytest.raises(ValueError, match="no latency was sampled"):
            summarise([])


class TestTimeCalls:
    def test_calls_are_timed_one_by_one_until_the_time_is_up(self, clock: Clock) -> None:
        assert time_calls(clock.call(0.25), seconds=1.0, warm_up_seconds=0.0) == [250.0] * 4

    def test_the_warm_up_is_not_timed(self, clock: Clock) -> None:
        pace = itertools.chain([0.5, 0.5], itertools.repeat(0.125))

        def slow_at_first() -> None:
            clock.now += next(pace)

        assert time_calls(slow_at_first, seconds=0.5, warm_up_seconds=1.0) == [125.0] * 4

    def test_a_call_longer_than_the_time_is_still_timed_once(self, clock: Clock) -> None:
        assert time_calls(clock.call(8.0), seconds=1.0, warm_up_seconds=0.0) == [8000.0]


class TestInterleave:
    def test_rivals_take_turns_and_the_first_turn_is_not_counted(self, clock: Clock) -> None:
        seen: list[str] = []
        calls = {name: (lambda name=name: seen.append(name)) for name in ("a", "b")}
        found = interleave(calls, rounds=2, per_round=3)
        assert "".join(seen) == "aaabbb" * 3
        assert (found["a"].count, found["b"].count) == (6, 6)

    def test_each_has_its_own_time(self, clock: Clock) -> None:
        found = interleave({"slow": clock.call(0.5), "fast": clock.call(0.25)}, rounds=3, per_round=2)
        assert found["slow"].samples_ms == (500.0,) * 6
        assert found["fast"].samples_ms == (250.0,) * 6

    def test_a_drift_of_the_machine_meets_all_alike(self, clock: Clock) -> None:
        turn = itertools.count(1)

        def slower_and_slower() -> None:
            clock.now += next(turn) / 1024

        found = interleave({"a": slower_and_slower, "b": slower_and_slower}, rounds=50, per_round=1)
        assert found["a"].p50_ms == pytest.approx(found["b"].p50_ms, rel=0.02)


class TestCompareSpeed:
    @staticmethod
    def latency(scale: float, noise: float, seed: int, rounds: int = 10) -> Latency:
        """Return a latency of rounds of 20 calls; the machine is another in each round, for all alike."""
        pace = np.random.default_rng(0).uniform(1.0, 2.0, (rounds, 1))
        jitter = np.random.default_rng(seed).normal(0.0, noise, (rounds, 20))
        return summarise((scale * pace * (1 + jitter)).ravel().tolist())

    def test_a_drift_that_meets_both_does_not_widen_the_interval(self) -> None:
        found = compare_speed(self.latency(3.0, 0.01, 1), self.latency(2.0, 0.01, 2), 10)
        assert found.ratio == pytest.approx(1.5, rel=0.01)
        assert 1.48 < found.low <= found.ratio <= found.high < 1.52

    def test_what_is_equally_fast_is_not_faster(self) -> None:
        found = compare_speed(self.latency(1.0, 0.1, 1), self.latency(1.0, 0.1, 2), 10)
        assert found.low < 1.0 < found.high

    def test_a_thing_is_as_fast_as_itself(self) -> None:
        one = self.latency(1.0, 0.1, 1)
        found = compare_speed(one, one, 10)
        assert (found.ratio, found.low, found.high) == (1.0, 1.0, 1.0)

    def test_samples_that_do_not_part_into_rounds_are_refused(self) -> None:
        with pytest.raises(ValueError, match="cannot reshape"):
            compare_speed(self.latency(1.0, 0.1, 1), self.latency(1.0, 0.1, 2), 7)
