"""Tests of edgetl/quantize/decide.py."""

from __future__ import annotations

import numpy as np
import pytest

from edgetl.quantize import Candidate, Verdict, decide
from edgetl.records import IntArray
from edgetl.target import Budget, EngineProfile, TargetProfile


def target(points: float) -> TargetProfile:
    return TargetProfile(
        schema=1,
        name="box",
        description="",
        engine=EngineProfile(name="onnxruntime", precisions=("int8", "fp32")),
        budget=Budget(accuracy_drop_points=points),
    )


def judge(
    lost: int, gained: int = 0, photos: int = 1000, budget: float = 0.5, float_ms: float = 2.0, int8_ms: float = 1.0
) -> Verdict:
    """Return the verdict where INT8 loses and gains so many photos."""
    actual = np.zeros(photos, dtype=np.int64)
    before, after = actual.copy(), actual.copy()
    after[:lost] = 1
    before[photos - gained :] = 1
    float_, int8 = (
        Candidate(latency_p50_ms=latency, answers=answers)
        for latency, answers in ((float_ms, before), (int8_ms, after))
    )
    return decide(float_, int8, actual, target(budget))


def test_int8_that_is_faster_and_inside_the_budget_ships() -> None:
    assert judge(lost=4) == Verdict(
        precision="int8",
        reason="INT8 is 2.00x faster and inside the budget of 0.5 points: 0.40 points lost on 1000 held-out photos",
        drop_points=0.4,
        speed_up=2.0,
    )


def test_a_drop_on_the_budget_is_inside() -> None:
    assert judge(lost=5).precision == "int8"


def test_int8_outside_the_budget_does_not_ship_however_fast() -> None:
    found = judge(lost=6, int8_ms=0.01)
    assert found.precision == "fp32"
    assert found.reason == "INT8 is outside the budget of 0.5 points: 0.60 points lost on 1000 held-out photos"
    assert found.drop_points == pytest.approx(0.6)


@pytest.mark.parametrize(("int8_ms", "said"), [(1.95, "1.03x"), (2.0, "1.00x"), (2.5, "0.80x")])
def test_int8_that_is_not_faster_does_not_ship(int8_ms: float, said: str) -> None:
    found = judge(lost=0, int8_ms=int8_ms)
    assert found.precision == "fp32"
    assert found.reason == f"INT8 is not faster beyond the noise of timing: {said} the speed of float"


def test_photos_gained_make_up_for_photos_lost() -> None:
    found = judge(lost=20, gained=18)
    assert found.precision == "int8"
    assert found.drop_points == pytest.approx(0.2)


def test_int8_that_answers_better_says_so() -> None:
    found = judge(lost=0, gained=10)
    assert found.precision == "int8"
    assert found.drop_points == pytest.approx(-1.0)
    assert found.reason.endswith("inside the budget of 0.5 points: 1.00 points gained on 1000 held-out photos")


def test_int8_that_answers_alike_loses_no_points() -> None:
    assert judge(lost=3, gained=3).reason.endswith("budget of 0.5 points: no points lost on 1000 held-out photos")


def test_one_photo_is_allowed_where_the_budget_is_finer_than_that() -> None:
    found = judge(lost=1, photos=50)
    assert found.precision == "int8"
    assert found.reason == (
        "INT8 is 2.00x faster and inside the budget of 0.5 points, one photo being 2.00: "
        "2.00 points lost on 50 held-out photos"
    )


def test_two_photos_are_not() -> None:
    found = judge(lost=2, photos=50)
    assert found.precision == "fp32"
    assert found.reason == "INT8 is outside the budget of 0.5 points: 4.00 points lost on 50 held-out photos"


def test_the_size_of_one_photo_is_not_mentioned_where_it_does_not_matter() -> None:
    assert "one photo" not in judge(lost=0, photos=50).reason


@pytest.mark.parametrize("photos", [3, 7, 300])
def test_one_photo_is_one_photo_in_spite_of_rounding(photos: int) -> None:
    assert judge(lost=1, photos=photos, budget=0.0).precision == "int8"


def test_a_target_that_allows_float_only_gets_float() -> None:
    answers: IntArray = np.zeros(4, dtype=np.int64)
    only = Candidate(latency_p50_ms=1.0, answers=answers)
    assert decide(only, None, answers, target(0.5)) == Verdict(
        precision="fp32", reason="box allows float only", drop_points=0.0, speed_up=1.0
    )
