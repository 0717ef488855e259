from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetl.metrics import accuracy, agreement, compare_paired, confusion_matrix, macro_f1, wilson_interval
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


@settings(deadline=None)
@given(st.integers(1, 10_000).flatmap(lambda count: st.tuples(st.integers(0, count), st.just(count))))
def test_a_wilson_interval_holds_its_share_and_stays_between_zero_and_one(counts: tuple[int, int]) -> None:
    low, high = wilson_interval(*counts)

    assert 0.0 <= low < high <= 1.0
    assert low - 1e-12 <= counts[0] / counts[1] <= high + 1e-12


@pytest.mark.parametrize(("hits", "count"), [(0, 0), (1, 0), (-1, 5), (6, 5)])
def test_wilson_interval_refuses_impossible_counts(hits: int, count: int) -> None:
    with pytest.raises(ValueError, match=f"found {hits} of {count}"):
        wilson_interval(hits, count)


def test_paired_comparison_counts_what_is_lost_and_gained_image_by_image() -> None:
    #                    kept lost gained wrong-twice
    actual = classes(0, 1, 1, 2, 2)
    before = classes(0, 1, 1, 0, 0)
    after = classes(0, 0, 2, 2, 1)

    result = compare_paired(before, after, actual)

    assert (result.images, result.lost, result.gained) == (5, 2, 1)
    assert result.drop_points == pytest.approx(20.0)


def test_a_gain_is_a_negative_drop() -> None:
    assert compare_paired(classes(1, 1), classes(0, 1), classes(0, 1)).drop_points == pytest.approx(-50.0)
