"""Tests of edgetl/finetune/head.py."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from edgetl.finetune import Classifier, fit_head, new_head, pick_head
from edgetl.finetune.head import Head
from edgetl.finetune.probe import STRENGTHS
from edgetl.metrics import accuracy
from edgetl.records import FloatArray, HeadKind, IntArray
from tests.finetune.clouds import clouds

every_kind = pytest.mark.parametrize("kind", get_args(HeadKind))


def right(head: Head, features: FloatArray, labels: IntArray) -> float:
    return accuracy(head.logits(features).argmax(axis=1), labels)


def fit(kind: HeadKind, features: FloatArray, labels: IntArray, seed: int = 0) -> Head:
    return fit_head(kind, [features], labels, int(labels.max()) + 1, seed)


@every_kind
class TestEveryKind:
    @pytest.mark.parametrize("classes", [2, 5])
    def test_it_beats_chance_on_photos_it_has_not_seen(self, kind: HeadKind, classes: int) -> None:
        assert right(fit(kind, *clouds(classes, 20, seed=1)), *clouds(classes, 50, seed=3)) > 0.8

    def test_one_photo_a_class_is_enough(self, kind: HeadKind) -> None:
        assert right(fit(kind, *clouds(3, 1, seed=1, apart=5.0)), *clouds(3, 20, seed=2, apart=5.0)) > 0.9

    def test_fitting_twice_gives_the_same(self, kind: HeadKind) -> None:
        first, second = (fit(kind, *clouds(3, 20, seed=1)).module.state_dict() for _ in range(2))
        assert all(torch.equal(first[name], second[name]) for name in first)

    def test_its_state_is_that_of_a_new_one(self, kind: HeadKind) -> None:
        features, labels = clouds(3, 10, seed=1)
        head = fit(kind, features, labels)
        other = new_head(kind, 16, 3)
        other.load_state_dict(head.module.state_dict())
        np.testing.assert_array_equal(
            head.logits(features), Head(kind=kind, module=other, strength=None).logits(features)
        )

    def test_a_classifier_gives_its_logits_on_the_backbones_features(self, kind: HeadKind) -> None:
        head = fit(kind, *clouds(3, 20, seed=1))
        photos = torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        logits = Classifier(nn.Flatten(), head.module).eval()(photos).numpy()
        np.testing.assert_allclose(logits, head.logits(photos.view(4, 16).numpy()), rtol=1e-4, atol=1e-5)

    def test_it_learns_from_every_view(self, kind: HeadKind) -> None:
        features, labels = clouds(3, 20, seed=1, apart=5.0)
        turned = np.roll(features, 3, axis=1)
        head = fit_head(kind, [features, turned], labels, 3, seed=0)
        asked, answers = clouds(3, 20, seed=2, apart=5.0)
        assert right(head, np.roll(asked, 3, axis=1), answers) > 0.9


def test_the_strength_of_a_linear_head_is_chosen() -> None:
    assert fit("linear", *clouds(3, 20, seed=1)).strength in STRENGTHS


def test_a_hidden_layer_learns_what_no_plane_parts() -> None:
    draw = np.random.default_rng(0)
    features = draw.normal(size=(800, 2)).astype(np.float32)
    labels = (features[:, 0] * features[:, 1] > 0).astype(np.int64)
    assert right(fit("linear", features, labels), features, labels) < 0.7
    assert right(fit("mlp", features, labels), features, labels) > 0.9


def test_a_prototype_answers_by_the_angle_alone() -> None:
    features, labels = clouds(4, 5, seed=1, apart=3.0)
    head = fit("prototype", features, labels)
    asked, _ = clouds(4, 20, seed=2, apart=3.0)
    cosines = np.stack(
        [
            asked @ mean / np.linalg.norm(mean) / np.linalg.norm(asked, axis=1)
            for label in range(4)
            for own in [features[labels == label]]
            for mean in [(own / np.linalg.norm(own, axis=1, keepdims=True)).mean(axis=0)]
        ],
        axis=1,
    )
    np.testing.assert_array_equal(head.logits(asked).argmax(axis=1), cosines.argmax(axis=1))
    np.testing.assert_array_equal(head.logits(7 * asked).argmax(axis=1), cosines.argmax(axis=1))


@pytest.mark.parametrize(("counts", "kind"), [((5, 5, 1), "prototype"), ((6, 1), "linear"), ((200, 100), "linear")])
def test_prototypes_are_for_few_photos_a_class(counts: tuple[int, ...], kind: str) -> None:
    assert pick_head(np.repeat(np.arange(len(counts)), counts)) == kind
