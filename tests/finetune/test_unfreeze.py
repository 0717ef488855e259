"""Tests of edgetl/finetune/unfreeze.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edgetl.backbones import Backbone, freeze
from edgetl.finetune import Classifier, LinearHead
from edgetl.finetune.unfreeze import trained_groups


@pytest.fixture
def classifier(load: Callable[..., Backbone]) -> Classifier:
    backbone = load("mobilenet_v3_small")
    weight = np.zeros((3, backbone.features), dtype=np.float32)
    head = LinearHead(weight=weight, bias=np.zeros(3, dtype=np.float32), strength=1.0)
    return Classifier(freeze(backbone.module), head)


def test_every_parameter_is_in_one_group(classifier: Classifier) -> None:
    groups = trained_groups(classifier, 1e-4, 1e-3, 0.02)
    found = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(found) == sorted(id(parameter) for parameter in classifier.parameters())


def test_everything_is_unfrozen(classifier: Classifier) -> None:
    trained_groups(classifier, 1e-4, 1e-3, 0.02)
    assert all(parameter.requires_grad for parameter in classifier.parameters())
    assert classifier.training


def test_the_head_learns_faster_than_the_backbone(classifier: Classifier) -> None:
    rates = {
        id(parameter): group["lr"]
        for group in trained_groups(classifier, 1e-4, 1e-3, 0.02)
        for parameter in group["params"]
    }
    assert {rates[id(parameter)] for parameter in classifier.backbone.parameters()} == {1e-4}
    assert {rates[id(parameter)] for parameter in classifier.head.parameters()} == {1e-3}


def test_weights_decay_but_biases_and_normalisation_do_not(classifier: Classifier) -> None:
    for group in trained_groups(classifier, 1e-4, 1e-3, 0.02):
        kinds = {parameter.ndim > 1 for parameter in group["params"]}
        assert len(kinds) == 1
        assert group["weight_decay"] == (0.02 if kinds == {True} else 0.0)
