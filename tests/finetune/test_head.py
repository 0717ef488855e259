"""Tests of edgetl/finetune/head.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edgetl.finetune import Classifier, LinearHead, fit_head
from edgetl.finetune.head import STRENGTHS, cross_validated
from edgetl.metrics import accuracy
from edgetl.records import FloatArray, IntArray


def clouds(classes: int, each: int, seed: int, apart: float = 1.0) -> tuple[FloatArray, IntArray]:
    """Return features of shape (classes * each, 16): one normal cloud a class, and the classes."""
    centres = np.random.default_rng(0).normal(0, apart, (classes, 16))
    labels = np.repeat(np.arange(classes), each)
    return (centres[labels] + np.random.default_rng(seed).normal(size=(len(labels), 16))).astype(np.float32), labels


def right(head: LinearHead, features: FloatArray, labels: IntArray) -> float:
    return accuracy(head.logits(features).argmax(axis=1), labels)


class TestFitHead:
    @pytest.mark.parametrize("classes", [2, 3, 10])
    def test_it_beats_chance_on_photos_it_has_not_seen(self, classes: int) -> None:
        head = fit_head(*clouds(classes, 20, seed=1), *clouds(classes, 5, seed=2))
        assert right(head, *clouds(classes, 50, seed=3)) > 0.8

    @pytest.mark.parametrize("classes", [2, 3])
    def test_there_is_a_row_for_each_class(self, classes: int) -> None:
        head = fit_head(*clouds(classes, 20, seed=1), *clouds(classes, 5, seed=2))
        assert (head.weight.shape, head.bias.shape) == ((classes, 16), (classes,))
        assert head.weight.dtype == head.bias.dtype == np.float32

    def test_it_finds_classes_in_small_features_far_from_zero(self) -> None:
        features, labels = clouds(3, 20, seed=1)
        held, held_labels = clouds(3, 10, seed=2)
        head = fit_head(features * 0.01 + 5, labels, held * 0.01 + 5, held_labels)
        assert right(head, held * 0.01 + 5, held_labels) > 0.8

    def test_features_that_never_change_do_no_harm(self) -> None:
        features, labels = clouds(3, 20, seed=1)
        features[:, 3] = 7.0
        features[:, 5] = 0.0
        head = fit_head(features, labels, features, labels)
        assert np.isfinite(head.weight).all() and np.isfinite(head.bias).all()
        assert right(head, features, labels) > 0.8

    def test_features_of_which_none_changes_do_not_break_it(self) -> None:
        features, labels = np.ones((20, 4), dtype=np.float32), np.repeat([0, 1], 10)
        head = fit_head(features, labels, features, labels)
        assert np.isfinite(head.logits(features)).all()

    def test_a_feature_that_hardly_changes_gets_no_huge_weight(self) -> None:
        features, labels = clouds(2, 40, seed=1)
        features[:, 0] = 1e-4 * (labels + np.random.default_rng(2).normal(0, 0.1, len(labels)))
        head = fit_head(features, labels, features, labels)
        assert np.abs(head.weight[:, 0]).max() < 5 * np.abs(head.weight[:, 1:]).max()

    def test_ties_go_to_the_stronger_regularisation(self) -> None:
        features, labels = clouds(2, 20, seed=1, apart=30.0)
        assert fit_head(features, labels, features, labels).strength == min(STRENGTHS)

    def test_the_strength_is_chosen_on_the_held_out_photos(self) -> None:
        features, labels = clouds(3, 8, seed=1, apart=0.5)
        held, held_labels = clouds(3, 40, seed=2, apart=0.5)
        best = fit_head(features, labels, held, held_labels)
        assert best.strength in STRENGTHS
        assert right(best, held, held_labels) >= max(
            right(fit_head(features, labels, held[:n], held_labels[:n]), held, held_labels) for n in (1, 2)
        )

    def test_fitting_twice_gives_the_same(self) -> None:
        first, second = (fit_head(*clouds(3, 20, seed=1), *clouds(3, 5, seed=2)) for _ in range(2))
        np.testing.assert_array_equal(first.weight, second.weight)
        np.testing.assert_array_equal(first.bias, second.bias)


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


def test_a_classifier_gives_the_heads_logits_on_the_backbones_features() -> None:
    head = fit_head(*clouds(3, 20, seed=1), *clouds(3, 5, seed=2))
    photos = torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    logits = Classifier(nn.Flatten(), head)(photos).detach().numpy()
    np.testing.assert_allclose(logits, head.logits(photos.view(4, 16).numpy()), rtol=1e-4, atol=1e-5)
