from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetl.metrics import (
    MOST_DB,
    Drop,
    accuracy,
    agreement,
    calibration_error,
    compare_paired,
    confusion_matrix,
    least_provable,
    macro_f1,
    signal_to_noise,
    wilson_interval,
)
from edgetl.records import FloatArray, IntArray


def classes(*values: int) -> IntArray:
    return np.array(values, dtype=np.int64)


def logits(*rows: tuple[float, ...]) -> FloatArray:
    return np.array(rows, dtype=np.float32)


ACTUAL = classes(0, 0, 0, 0, 1, 1, 1, 2, 2, 2)
PREDICTED = classes(0, 0, 0, 1, 1, 1, 2, 2, 0, 0)


def test_accuracy_is_the_share_of_right_answers() -> None:
    assert accuracy(PREDICTED, ACTUAL) == pytest.approx(0.6)


@pytest.mark.parametrize(("predicted", "actual"), [(classes(), classes()), (classes(1), classes(1, 2))])
def test_accuracy_of_nothing_or_of_unequal_shapes_is_refused(predicted: IntArray, actual: IntArray) -> None:
    with pytest.raises(ValueError, match="two equal, non-empty shapes, found"):
        accuracy(predicted, actual)


def test_agreement_compares_the_top_classes_only() -> None:
    first = logits((2, 1, 0), (0, 3, 1), (5, 4, 6))
    second = logits((9, 8, 7), (1, 0, 2), (0, 0, 1))

    assert agreement(first, second) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("found", "decibels"),
    [
        (logits((3.3, 4.4)), 20.0),
        (logits((3.0, 4.0)), MOST_DB),
        (logits((0.0, 0.0)), 0.0),
        (logits((math.inf, 4.0)), -MOST_DB),
        (logits((math.nan, 4.0)), -MOST_DB),
    ],
    ids=["a tenth of each", "equal", "nothing", "infinite", "not a number"],
)
def test_signal_is_its_power_over_that_of_what_parts(found: FloatArray, decibels: float) -> None:
    assert signal_to_noise(logits((3.0, 4.0)), found) == pytest.approx(decibels, abs=1e-4)


def test_a_signal_of_zeros_is_all_there_or_buried() -> None:
    assert signal_to_noise(logits((0.0, 0.0)), logits((0.0, 0.0))) == MOST_DB
    assert signal_to_noise(logits((0.0, 0.0)), logits((1.0, 0.0))) == -MOST_DB


def test_what_none_of_so_many_images_prove_is_the_upper_end_of_their_interval() -> None:
    for images in (1, 3, 15, 600):
        right = np.zeros(images, dtype=np.int64)
        assert least_provable(images) == compare_paired(right, right, right).interval[1]
    assert least_provable(600) == 0.5


def test_agreement_of_unequal_counts_is_refused() -> None:
    with pytest.raises(ValueError, match=r"found \(2,\) and \(1,\)"):
        agreement(logits((0, 1), (1, 0)), logits((0, 1)))


def test_a_confusion_matrix_has_actual_classes_as_rows() -> None:
    assert confusion_matrix(PREDICTED, ACTUAL, 3).tolist() == [[3, 1, 0], [0, 2, 1], [2, 0, 1]]


def test_a_confusion_matrix_keeps_classes_that_do_not_occur() -> None:
    assert confusion_matrix(classes(0), classes(1), 3).tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 0]]


def test_macro_f1_equals_the_calculation_by_hand() -> None:
    # precision and recall: 3/5 and 3/4, 2/3 and 2/3, 1/2 and 1/3
    by_hand = (2 / 3 + 2 / 3 + 2 / 5) / 3

    assert macro_f1(confusion_matrix(PREDICTED, ACTUAL, 3)) == pytest.approx(by_hand)


def test_macro_f1_counts_a_class_that_is_never_right_as_zero() -> None:
    # class 0: precision 1/2, recall 1; class 1: never predicted
    assert macro_f1(confusion_matrix(classes(0, 0), classes(0, 1), 2)) == pytest.approx((2 / 3 + 0) / 2)


def test_macro_f1_leaves_out_a_class_that_does_not_occur() -> None:
    assert macro_f1(confusion_matrix(classes(0, 1), classes(0, 1), 5)) == 1.0


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [
        # scipy.stats.binomtest(hits, count).proportion_ci(method="wilson"), to four digits
        (8, 10, 0.4902, 0.9433),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (1, 2, 0.0945, 0.9055),
        (610, 1000, 0.5794, 0.6398),
    ],
)
def test_wilson_interval_equals_known_values(hits: int, count: int, low: float, high: float) -> None:
    assert wilson_interval(hits, count) == pytest.approx((low, high), abs=1e-4)


def test_a_higher_confidence_gives_a_wider_wilson_interval() -> None:
    low, high = wilson_interval(8, 10)
    wider_low, wider_high = wilson_interval(8, 10, z=2.576)

    assert wider_low < low < high < wider_high


@given(st.integers(1, 10_000).flatmap(lambda count: st.tuples(st.integers(0, count), st.just(count))))
def test_a_wilson_interval_holds_its_share_and_stays_between_zero_and_one(counts: tuple[int, int]) -> None:
    low, high = wilson_interval(*counts)

    assert 0.0 <= low < high <= 1.0
    assert low - 1e-12 <= counts[0] / counts[1] <= high + 1e-12


@pytest.mark.parametrize(("hits", "count"), [(0, 0), (1, 0), (-1, 5), (6, 5)])
def test_wilson_interval_refuses_impossible_counts(hits: int, count: int) -> None:
    with pytest.raises(ValueError, match=f"found {hits} of {count}"):
        wilson_interval(hits, count)


def drop(lost: int, gained: int, images: int) -> Drop:
    """Return the drop where so many of the images are lost and gained."""
    actual = np.zeros(images, dtype=np.int64)
    before, after = actual.copy(), actual.copy()
    after[:lost] = 1
    before[images - gained :] = 1
    return compare_paired(before, after, actual)


class TestComparePaired:
    def test_it_counts_what_is_lost_and_gained_image_by_image(self) -> None:
        #                    kept lost gained wrong-twice
        actual = classes(0, 1, 1, 2, 2)
        before = classes(0, 1, 1, 0, 0)
        after = classes(0, 0, 2, 2, 1)
        found = compare_paired(before, after, actual)
        assert (found.images, found.lost, found.gained) == (5, 2, 1)
        assert found.points == pytest.approx(20.0)

    def test_a_gain_is_a_negative_drop(self) -> None:
        assert drop(lost=0, gained=1, images=2).points == pytest.approx(-50.0)

    @pytest.mark.parametrize(
        ("lost", "gained", "p_value"),
        # scipy.stats.binomtest(lost, lost + gained, alternative="greater").pvalue
        [(5, 1, 0.109375), (10, 10, 0.5880985), (2, 0, 0.25), (0, 0, 1.0), (30, 10, 0.0011107169), (0, 4, 1.0)],
    )
    def test_its_p_value_is_mcnemars(self, lost: int, gained: int, p_value: float) -> None:
        assert drop(lost, gained, 100).p_value == pytest.approx(p_value, rel=1e-4)

    def test_a_p_value_of_thousands_of_images_is_a_number(self) -> None:
        assert drop(2000, 1900, 10_000).p_value == pytest.approx(0.0564468, rel=1e-4)

    def test_its_interval_is_nearly_the_normal_one_where_there_are_many_images(self) -> None:
        found = drop(lost=400, gained=300, images=20_000)
        spread = 1.96 * np.sqrt(700 / 20_000 - (100 / 20_000) ** 2) / np.sqrt(20_000)
        assert found.interval == pytest.approx((0.5 - 100 * spread, 0.5 + 100 * spread), abs=0.02)

    def test_what_was_never_seen_may_still_happen(self) -> None:
        assert drop(lost=0, gained=0, images=200).interval == pytest.approx((-1.5, 1.5))
        low, high = drop(lost=1, gained=0, images=200).interval
        assert low == pytest.approx(-1.0) and 0.5 < high <= 1.5
        assert drop(lost=0, gained=0, images=2).interval == pytest.approx((-100.0, 100.0))

    def test_other_shapes_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"equal, non-empty shapes, found \(1,\), \(2,\), \(2,\)"):
            compare_paired(classes(0), classes(0, 1), classes(0, 1))

    @given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n // 2), st.integers(0, n // 2), st.just(n))))
    def test_an_interval_holds_its_drop(self, counts: tuple[int, int, int]) -> None:
        found = drop(*counts)
        low, high = found.interval
        assert -100.0 <= low <= found.points + 1e-9 and found.points - 1e-9 <= high <= 100.0
        assert 0.0 < found.p_value <= 1.0


class TestCalibrationError:
    def test_confidence_that_is_accuracy_has_no_error(self) -> None:
        sure = np.tile(np.array([[0.75, 0.25]], dtype=np.float32), (4, 1))
        assert calibration_error(sure, classes(0, 0, 0, 1)) == pytest.approx(0.0)

    def test_it_is_the_gap_weighted_by_images(self) -> None:
        # Two photos at 0.9, one right; two at 0.6, both right: (2 * 0.4 + 2 * 0.4) / 4.
        sure = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]], dtype=np.float32)
        assert calibration_error(sure, classes(0, 1, 0, 0)) == pytest.approx(0.4)

    def test_full_confidence_has_a_bin(self) -> None:
        assert calibration_error(np.eye(2, dtype=np.float32), classes(0, 0)) == pytest.approx(0.5)

    def test_no_image_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="at least one image"):
            calibration_error(np.empty((0, 2), dtype=np.float32), classes())
