"""Tests of edgetl/quantize/decide.py."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest

from edgetl.quantize import Candidate, Verdict, decide
from edgetl.records import IntArray, Precision
from edgetl.target import Budget, EngineProfile, TargetProfile


def target(
    points: float, *precisions: Precision, engine: Literal["onnxruntime", "tensorrt"] = "onnxruntime"
) -> TargetProfile:
    return TargetProfile(
        schema=1,
        name="box",
        description="",
        engine=EngineProfile(
            name=engine, device="cuda" if engine == "tensorrt" else "cpu", precisions=precisions or ("int8", "fp32")
        ),
        budget=Budget(accuracy_drop_points=points),
    )


def judge(lost: int, gained: int = 0, photos: int = 1000, budget: float = 0.5, int8_ms: float | None = 1.0) -> Verdict:
    """Return the verdict where INT8 loses and gains so many photos."""
    actual = np.zeros(photos, dtype=np.int64)
    before, after = actual.copy(), actual.copy()
    after[:lost] = 1
    before[photos - gained :] = 1
    float_, int8 = (
        Candidate(latency_p50_ms=latency, answers=answers)
        for latency, answers in ((int8_ms and 2.0, before), (int8_ms, after))
    )
    return decide({"fp32": float_, "int8": int8}, actual, target(budget))


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
        "INT8 is 2.00x faster and inside the budget of 0.5 points as far as so few photos tell, one being 2.00: "
        "2.00 points lost on 50 held-out photos"
    )


def test_two_photos_are_not() -> None:
    found = judge(lost=2, photos=50)
    assert found.precision == "fp32"
    assert found.reason == "INT8 is outside the budget of 0.5 points: 4.00 points lost on 50 held-out photos"


def test_the_size_of_one_photo_is_not_mentioned_where_it_does_not_matter() -> None:
    assert "so few photos" not in judge(lost=0, photos=50).reason


@pytest.mark.parametrize("photos", [3, 7, 300])
def test_one_photo_is_one_photo_in_spite_of_rounding(photos: int) -> None:
    assert judge(lost=1, photos=photos, budget=0.0).precision == "int8"


ALIKE: IntArray = np.zeros(1000, dtype=np.int64)


def answers(lost: int, latency: float | None = None) -> Candidate:
    """Return a candidate that gets so many photos wrong."""
    found = ALIKE.copy()
    found[:lost] = 1
    return Candidate(latency_p50_ms=latency, answers=found)


@pytest.mark.parametrize(("allowed", "said"), [(("fp32",), "allows float only"), (("fp32", "int8"), "prefers float")])
def test_a_target_that_allows_or_prefers_float_gets_float(allowed: tuple[Precision, ...], said: str) -> None:
    candidates: dict[Precision, Candidate] = {"fp32": answers(0, 1.0), "int8": answers(0, 0.1)}
    assert decide(candidates, ALIKE, target(0.5, *allowed)) == Verdict(
        precision="fp32", reason=f"box {said}", drop_points=0.0, speed_up=1.0
    )


def test_a_target_that_allows_int8_only_gets_it_where_it_is_inside_the_budget() -> None:
    found = decide({"fp32": answers(0, 1.0), "int8": answers(4, 2.0)}, ALIKE, target(0.5, "int8"))
    assert (found.precision, found.reason) == ("int8", "box allows INT8 only: 0.40 points lost on 1000 held-out photos")


def test_where_speed_was_not_measured_the_order_of_precisions_stands_for_it() -> None:
    found = judge(lost=4, int8_ms=None)
    assert (found.precision, found.speed_up) == ("int8", None)
    assert found.reason == (
        "INT8 is inside the budget of 0.5 points: 0.40 points lost on 1000 held-out photos; its speed was not "
        "measured here"
    )


LADDER: tuple[Precision, ...] = ("int8+fp16", "int8", "fp16")


def test_a_precision_that_was_not_tried_is_passed_over() -> None:
    tried: dict[Precision, Candidate] = {"fp32": answers(0), "int8+fp16": answers(9), "fp16": answers(1)}
    assert decide(tried, ALIKE, target(0.5, *LADDER, engine="tensorrt")).precision == "fp16"


@pytest.mark.parametrize(
    ("lost", "chosen"), [((0, 0, 0), "int8+fp16"), ((9, 5, 0), "int8"), ((9, 9, 1), "fp16"), ((9, 7, 8), "int8")]
)
def test_the_first_of_a_ladder_that_is_inside_the_budget_ships_or_else_the_nearest_to_it(
    lost: tuple[int, int, int], chosen: str
) -> None:
    candidates: dict[Precision, Candidate] = {
        "fp32": answers(0), **{name: answers(count) for name, count in zip(LADDER, lost, strict=True)}
    }  # fmt: skip
    found = decide(candidates, ALIKE, target(0.5, *LADDER, engine="tensorrt"))
    assert found.precision == chosen
    assert ("is outside the budget" in found.reason) == (min(lost) > 5)
