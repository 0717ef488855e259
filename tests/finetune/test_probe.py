"""Tests of edgetl/finetune/probe.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgetl.finetune import probe as room
from edgetl.finetune.probe import STRENGTHS, USUAL, Linear, choose_strength, cross_validated, fit_probe, folds
from edgetl.metrics import accuracy
from edgetl.records import FloatArray, IntArray
from edgetl.runtime import softmax
from tests.finetune.clouds import clouds


def right(probe: Linear, features: FloatArray, labels: IntArray) -> float:
    return accuracy(probe.logits(features).argmax(axis=1), labels)


class TestFitProbe:
    @pytest.mark.parametrize("classes", [2, 3, 10])
    def test_it_beats_chance_on_photos_it_has_not_seen(self, classes: int) -> None:
        probe = fit_probe([clouds(classes, 20, seed=1)[0]], clouds(classes, 20, seed=1)[1], classes, 0.1)
        assert right(probe, *clouds(classes, 50, seed=3)) > 0.8
        assert (probe.weight.shape, probe.bias.shape) == ((classes, 16), (classes,))
        assert probe.weight.dtype == probe.bias.dtype == np.float32

    @pytest.mark.parametrize("strength", [0.003, 0.1, 1.0])
    def test_it_is_what_scikit_learn_finds_on_standardised_features(self, strength: float) -> None:
        linear_model = pytest.importorskip("sklearn.linear_model")
        features, labels = clouds(4, 30, seed=1)
        standard = (features - features.mean(axis=0)) / features.std(axis=0)
        theirs = linear_model.LogisticRegression(C=strength, tol=1e-8, max_iter=5000).fit(standard, labels)
        wanted = theirs.predict_proba(standard)
        logits = fit_probe([features], labels, 4, strength).logits(features)
        np.testing.assert_allclose(softmax(logits), wanted, atol=0.002)

    def test_features_on_disk_that_come_in_blocks_give_the_same(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        features, labels = clouds(3, 20, seed=1)
        whole = fit_probe([features], labels, 3, 0.1)
        np.save(tmp_path / "features.npy", features)
        monkeypatch.setattr(room, "BLOCK", 7)
        parts = fit_probe([np.load(tmp_path / "features.npy", mmap_mode="r")], labels, 3, 0.1)
        np.testing.assert_allclose(parts.weight, whole.weight, atol=1e-3)

    def test_a_photo_that_is_seen_twice_counts_once(self) -> None:
        features, labels = clouds(3, 20, seed=1)
        once, twice = (fit_probe(count * [features], labels, 3, 0.1) for count in (1, 2))
        np.testing.assert_allclose(once.weight, twice.weight, atol=1e-3)

    def test_where_it_begins_makes_no_difference(self) -> None:
        features, labels = clouds(3, 20, seed=1)
        begun = fit_probe([features], labels, 3, 0.1, fit_probe([features], labels, 3, 0.001))
        np.testing.assert_allclose(begun.weight, fit_probe([features], labels, 3, 0.1).weight, atol=5e-3)

    def test_it_finds_classes_in_small_features_far_from_zero(self) -> None:
        features, labels = clouds(3, 20, seed=1)
        probe = fit_probe([features * 0.01 + 5], labels, 3, 0.1)
        asked, answers = clouds(3, 10, seed=2)
        assert right(probe, asked * 0.01 + 5, answers) > 0.8

    def test_features_that_never_change_do_no_harm(self) -> None:
        features, labels = clouds(3, 20, seed=1)
        features[:, 3] = 7.0
        features[:, 5] = 0.0
        probe = fit_probe([features], labels, 3, 0.1)
        assert np.isfinite(probe.weight).all() and np.isfinite(probe.bias).all()
        assert right(probe, features, labels) > 0.8

    def test_features_of_which_none_changes_do_not_break_it(self) -> None:
        features, labels = np.ones((20, 4), dtype=np.float32), np.repeat([0, 1], 10)
        assert np.isfinite(fit_probe([features], labels, 2, 1.0).logits(features)).all()

    def test_a_feature_that_hardly_changes_gets_no_huge_weight(self) -> None:
        features, labels = clouds(2, 40, seed=1)
        features[:, 0] = 1e-4 * (labels + np.random.default_rng(2).normal(0, 0.1, len(labels)))
        probe = fit_probe([features], labels, 2, 1.0)
        assert np.abs(probe.weight[:, 0]).max() < 5 * np.abs(probe.weight[:, 1:]).max()

    def test_a_class_without_photos_is_never_the_answer(self) -> None:
        features, labels = clouds(2, 20, seed=1, apart=5.0)
        probe = fit_probe([features], 2 * labels, 3, 0.1)
        assert right(probe, features, 2 * labels) == 1.0


class TestChooseStrength:
    def test_noise_is_answered_with_the_strongest_penalty(self) -> None:
        features = np.random.default_rng(0).normal(size=(200, 16)).astype(np.float32)
        assert choose_strength([features], np.arange(200) % 2, 2, seed=0) == min(STRENGTHS)

    def test_what_is_learnt_from_many_photos_needs_less_of_it(self) -> None:
        few, many = (choose_strength([each[0]], each[1], 3, seed=0) for each in (clouds(3, 8, 1), clouds(3, 400, 1)))
        assert few <= many
        assert many > min(STRENGTHS)

    def test_it_loses_next_to_nothing_against_the_best_on_photos_it_has_not_seen(self) -> None:
        features, labels = clouds(3, 30, seed=1, apart=0.5)
        asked = clouds(3, 400, seed=2, apart=0.5)
        each = {strength: right(fit_probe([features], labels, 3, strength), *asked) for strength in STRENGTHS}
        assert each[choose_strength([features], labels, 3, seed=0)] >= max(each.values()) - 0.03

    def test_where_nothing_can_be_held_out_the_usual_one_is_taken(self) -> None:
        assert choose_strength([np.eye(3, dtype=np.float32)], np.arange(3), 3, seed=0) == USUAL

    def test_of_many_photos_a_sample_chooses(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(room, "CHOSEN_ON", 30)
        seen: list[int] = []
        fit = room.fit_probe

        def watched(views: list[FloatArray], *rest: object) -> Linear:
            seen.append(len(views[0]))
            return fit(views, *rest)  # type: ignore[arg-type]

        monkeypatch.setattr(room, "fit_probe", watched)
        features, labels = clouds(3, 100, seed=1)
        assert choose_strength([features, features], labels, 3, seed=0) in STRENGTHS
        assert max(seen) < 30


class TestFolds:
    def test_every_photo_is_asked_once_by_what_has_not_seen_it(self) -> None:
        labels = np.repeat([0, 1, 2], [30, 7, 2])
        parts = list(folds(labels, seed=0))
        assert len(parts) == 5
        assert sorted(np.concatenate([test for _, test in parts])) == list(range(39))
        for train, test in parts:
            assert set(train) | set(test) == set(range(39))
            assert not set(train) & set(test)
            assert set(labels[train]) == {0, 1, 2}

    def test_the_only_photo_of_a_class_is_always_learnt(self) -> None:
        parts = list(folds(np.array([0, 0, 0, 1, 1, 1, 2]), seed=0))
        assert all(6 in train and 6 not in test for train, test in parts)


class TestCrossValidated:
    def test_separable_classes_are_told_apart(self) -> None:
        assert cross_validated(*clouds(3, 10, seed=1, apart=5.0)) == 1.0

    def test_noise_is_at_chance(self) -> None:
        features = np.random.default_rng(0).normal(size=(200, 16)).astype(np.float32)
        assert 0.3 < cross_validated(features, np.arange(200) % 2) < 0.7

    def test_a_class_of_two_photos_is_enough(self) -> None:
        features, labels = clouds(3, 2, seed=1, apart=9.0)
        assert cross_validated(features, labels) == 1.0

    @pytest.mark.parametrize("present", [(0, 2), (1, 2), (0, 3, 5)])
    def test_a_class_without_photos_does_not_shift_the_answers(self, present: tuple[int, ...]) -> None:
        features, labels = clouds(len(present), 10, seed=1, apart=5.0)
        assert cross_validated(features, np.array(present)[labels]) == 1.0

    def test_probes_are_asked_about_the_mirrored_photos_where_there_are_some(self) -> None:
        features, labels = clouds(2, 20, seed=1, apart=5.0)
        swapped = np.concatenate([features[20:], features[:20]])
        assert cross_validated(features, labels, mirrored=features) == 1.0
        assert cross_validated(features, labels, mirrored=swapped) == 0.0
