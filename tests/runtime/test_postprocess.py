"""Tests of edgetl/runtime/postprocess.py."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetl.bundle import Manifest
from edgetl.runtime.postprocess import TASKS, classify, softmax

LABELS = ("apple", "banana", "cherry", "date")


def row(*logits: float) -> np.ndarray:
    return np.array(logits, dtype=np.float32)


def test_every_task_that_a_manifest_may_name_has_its_function() -> None:
    assert set(TASKS) == set(get_args(Manifest.model_fields["task"].annotation))


class TestSoftmax:
    def test_it_is_the_share_of_each_exponential(self) -> None:
        np.testing.assert_allclose(softmax(np.log(row(1, 2, 5))), [0.125, 0.25, 0.625], rtol=1e-6)

    @given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=2, max_size=8))
    def test_logits_of_any_size_give_shares_that_sum_to_one(self, logits: list[float]) -> None:
        shares = softmax(row(*logits))
        assert (shares >= 0).all()
        assert shares.sum() == pytest.approx(1, abs=1e-5)

    def test_each_row_of_a_batch_is_on_its_own(self) -> None:
        batch = np.stack([row(1, 2, 3), row(300, 0, -300)])
        shares = softmax(batch)
        assert shares.shape == (2, 3)
        for found, logits in zip(shares, batch, strict=True):
            np.testing.assert_array_equal(found, softmax(logits))


class TestClassify:
    def test_labels_come_from_most_to_least_likely(self) -> None:
        scores = classify(row(0.1, 3, -2, 1), LABELS, top=4)
        assert [score.label for score in scores] == ["banana", "date", "apple", "cherry"]
        assert sum(score.score for score in scores) == pytest.approx(1)

    @pytest.mark.parametrize(("top", "count"), [(1, 1), (3, 3), (4, 4), (5, 4), (1000, 4)])
    def test_as_many_as_asked_for_or_all_there_are(self, top: int, count: int) -> None:
        assert len(classify(row(0.1, 3, -2, 1), LABELS, top)) == count

    def test_fewer_labels_keep_their_scores(self) -> None:
        logits = row(0.1, 3, -2, 1)
        assert classify(logits, LABELS, top=2) == classify(logits, LABELS, top=4)[:2]

    def test_equal_logits_keep_the_order_of_the_labels(self) -> None:
        assert [score.label for score in classify(row(1, 2, 2, 1), LABELS, top=4)] == [
            "banana",
            "cherry",
            "apple",
            "date",
        ]

    def test_scores_are_plain_numbers(self) -> None:
        assert type(classify(row(1, 2, 3, 4), LABELS, top=1)[0].score) is float
