"""Tests of edgetl/quantize/decide.py."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest

from edgetl.outcomes import Verdict
from edgetl.quantize import Candidate, can_tell, decide
from edgetl.records import IntArray, Precision, SpeedUp
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


def faster(ratio: float, spread: float = 0.02) -> SpeedUp:
    return SpeedUp(ratio=ratio, low=ratio - spread, high=ratio + spread)


TWICE = faster(2.0)


def judge(
    lost: int, gained: int = 0, photos: int = 1000, budget: float = 0.5, speed_up: SpeedUp | None = TWICE,
    strict: bool = False, over_rival: SpeedUp | None = None, precisions: tuple[Precision, ...] = (),
) -> Verdict:  # fmt: skip
    """Return the verdict where INT8 loses and gains so many photos."""
    actual = np.zeros(photos, dtype=np.int64)
    before, after = actual.copy(), actual.copy()
    after[:lost] = 1
    before[photos - gained :] = 1
    float_ = Candidate(speed_up=faster(1.0, 0.0), answers=before)
    int8 = Candidate(speed_up=speed_up, answers=after, over_rival=over_rival)
    return decide({"fp32": float_, "int8": int8}, actual, target(budget, *precisions), strict)


def test_int8_that_is_faster_and_inside_the_budget_ships() -> None:
    found = judge(lost=4)
    assert (found.precision, found.speed_up) == ("int8", faster(2.0))
    assert (found.drop.lost, found.drop.gained, found.drop.points) == (4, 0, pytest.approx(0.4))
    assert found.reason == (
        "INT8 is 2.00x (1.98 to 2.02) faster and inside the budget of 0.5 points: 0.40 points lost on 1000 held-out "
        "photos (95 % interval of the loss 0.10 to 0.80)"
    )


def test_a_drop_on_the_budget_is_inside() -> None:
    assert judge(lost=5).precision == "int8"


def test_int8_outside_the_budget_does_not_ship_however_fast() -> None:
    found = judge(lost=6, speed_up=faster(9.0))
    assert (found.precision, found.drop.points) == ("fp32", 0.0)
    assert found.reason.startswith(
        "INT8 is outside the budget of 0.5 points: 0.60 points lost on 1000 held-out photos (95 % interval"
    )


@pytest.mark.parametrize(
    ("speed_up", "said"),
    [
        (faster(1.03, 0.04), "1.03x (0.99 to 1.07)"), (faster(1.0), "1.00x (0.98 to 1.02)"),
        (faster(0.8), "0.80x (0.78 to 0.82)"), (faster(1.02, 0.02), "1.02x (1.00 to 1.04)"),
    ],
)  # fmt: skip
def test_int8_whose_speed_up_is_not_significant_does_not_ship(speed_up: SpeedUp, said: str) -> None:
    found = judge(lost=0, speed_up=speed_up)
    assert found.precision == "fp32"
    assert found.reason == f"INT8 is not faster beyond the noise of timing: {said} the speed of float"


def test_int8_that_is_slower_ships_where_float_may_not_and_says_so() -> None:
    answers = np.zeros(1000, dtype=np.int64)
    candidates = {"fp32": Candidate(speed_up=faster(1.0, 0.0), answers=answers)} | {
        precision: Candidate(speed_up=faster(0.8), answers=answers) for precision in ("int8", "fp16")
    }
    found = decide(candidates, answers, target(0.5, "int8", "fp16", engine="tensorrt"), strict=False)
    assert found.precision == "int8"
    assert found.reason.startswith(
        "INT8 is 0.80x (0.78 to 0.82) the speed of float, which may not ship, and inside the"
    )


def test_a_small_speed_up_that_is_significant_counts() -> None:
    assert judge(lost=0, speed_up=faster(1.02, 0.01)).precision == "int8"


def test_what_is_faster_than_what_could_ship_before_says_by_how_much() -> None:
    found = judge(lost=4, over_rival=faster(1.05))
    assert found.precision == "int8"
    assert found.reason.startswith(
        "INT8 is 2.00x (1.98 to 2.02) faster (1.05x (1.03 to 1.07) the speed of what could ship before) and inside"
    )


@pytest.mark.parametrize(
    ("over_rival", "said"),
    [
        (
            faster(1.05, 0.05),
            "not faster beyond the noise of timing: 1.05x (1.00 to 1.10) the speed of what could ship before",
        ),
        (faster(1.01, 0.002), "hardly faster: 1.01x (1.01 to 1.01) the speed of what could ship before"),
    ],
)
def test_what_is_hardly_faster_than_what_could_ship_before_does_not_ship(over_rival: SpeedUp, said: str) -> None:
    found = judge(lost=4, over_rival=over_rival)
    assert (found.precision, found.outside) == ("fp32", ())
    assert found.reason == f"INT8 so quantized is {said}"


def test_photos_gained_make_up_for_photos_lost() -> None:
    found = judge(lost=20, gained=18)
    assert found.precision == "int8"
    assert found.drop.points == pytest.approx(0.2)


def test_int8_that_answers_better_says_so() -> None:
    found = judge(lost=0, gained=10)
    assert found.precision == "int8"
    assert "inside the budget of 0.5 points: 1.00 points gained on 1000 held-out photos" in found.reason


def test_int8_that_answers_alike_loses_no_points() -> None:
    assert "budget of 0.5 points: no points lost on 1000 held-out photos" in judge(lost=3, gained=3).reason


def test_a_photo_too_many_is_outside_however_few_there_are() -> None:
    assert judge(lost=1, photos=50).precision == "fp32"
    assert judge(lost=1, gained=1, photos=50).precision == "int8"


@pytest.mark.parametrize("photos", [3, 7, 300])
def test_one_photo_is_one_photo_in_spite_of_rounding(photos: int) -> None:
    assert judge(lost=1, photos=photos, budget=min(100.0, 100 / photos)).precision == "int8"


@pytest.mark.parametrize(
    ("photos", "asked", "said"),
    [(100, {}, True), (1000, {}, False), (100, {"strict": True}, False), (100, {"budget": 0.0}, False)],
)
def test_where_one_photo_is_more_than_the_budget_too_few_are_said_to_be_held_out(
    photos: int, asked: dict[str, Any], said: bool
) -> None:
    found = judge(lost=0, photos=photos, **asked)
    coarse = "One held-out photo is 1.0 points, so 100 are too few to tell what is inside 0.5"
    assert found.remark == (f"{coarse}; --strict-budget asks for proof" if said else "")


@pytest.mark.parametrize("precisions", [("int8",), ("fp32", "int8")], ids=["nothing else may", "float is preferred"])
def test_nothing_is_said_of_too_few_photos_where_they_choose_nothing(precisions: tuple[Precision, ...]) -> None:
    assert judge(lost=0, photos=100, precisions=precisions).remark == ""


@pytest.mark.parametrize(
    ("images", "budget", "told"),
    [(200, 0.5, True), (199, 0.5, False), (3, 100 / 3, True), (1, 100.0, True), (7, 0.0, True)],
)
def test_photos_can_tell_where_one_that_is_lost_is_inside(images: int, budget: float, told: bool) -> None:
    assert can_tell(images, budget) is told


class TestStrictBudget:
    def test_the_worse_end_of_the_interval_must_be_inside(self) -> None:
        found = judge(lost=4, strict=True)
        assert found.precision == "fp32"
        assert found.reason.startswith(
            "INT8 is outside the budget of 0.5 points at the worse end of its interval: 0.40 points lost"
        )
        assert judge(lost=4, budget=0.9, strict=True).precision == "int8"

    def test_no_loss_on_few_photos_is_no_proof(self) -> None:
        assert judge(lost=0, photos=100, strict=True).precision == "fp32"
        assert judge(lost=0, photos=1000, strict=True).precision == "int8"


ALIKE: IntArray = np.zeros(1000, dtype=np.int64)


def answers(lost: int, speed_up: SpeedUp | None = None) -> Candidate:
    """Return a candidate that gets so many photos wrong."""
    found = ALIKE.copy()
    found[:lost] = 1
    return Candidate(speed_up=speed_up, answers=found)


@pytest.mark.parametrize(
    ("allowed", "said"), [(("fp32",), "float is all that is allowed"), (("fp32", "int8"), "box prefers float")]
)
def test_a_target_that_allows_or_prefers_float_gets_float(allowed: tuple[Precision, ...], said: str) -> None:
    candidates: dict[Precision, Candidate] = {"fp32": answers(0), "int8": answers(0, faster(10))}
    found = decide(candidates, ALIKE, target(0.5, *allowed))
    assert (found.precision, found.reason, found.drop.points) == ("fp32", said, 0.0)


def test_a_target_that_allows_int8_only_gets_it_where_it_is_inside_the_budget() -> None:
    found = decide({"fp32": answers(0), "int8": answers(4, faster(0.5))}, ALIKE, target(0.5, "int8"))
    assert found.precision == "int8"
    assert found.reason.startswith("INT8 is all that may ship, at 0.50x (")
    assert " the speed of float: 0.40 points lost on 1000 held-out photos (95 %" in found.reason


def test_where_speed_was_not_measured_the_order_of_precisions_stands_for_it() -> None:
    found = judge(lost=4, speed_up=None)
    assert (found.precision, found.speed_up) == ("int8", None)
    assert found.reason == (
        "INT8, whose speed was not measured here, is inside the budget of 0.5 points: 0.40 points lost on 1000 "
        "held-out photos (95 % interval of the loss 0.10 to 0.80)"
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
