"""Tests of edgetl/finetune/aware.py: quantization-aware training."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from edgetl.backbones import Backbone
from edgetl.data import Dataset, hold_out, labels_of
from edgetl.errors import TrainingError
from edgetl.finetune import Classifier, Rounding, TuneSettings, Workbench, aware, fit_head, tune_aware
from edgetl.finetune.aware import _rounded_weight, _RoundedInput, _RoundedWeight
from edgetl.finetune.features import extract_features
from edgetl.outcomes import History
from edgetl.quantize.weights import weight_overrides
from edgetl.recipe import load_recipe
from edgetl.records import Quiet

ROUNDING = Rounding(in_pairs=True, per_channel=True, symmetric=False)


class Lesson:
    """A small classifier, fitted, and its photos."""

    def __init__(self, backbone: Backbone, dataset: Dataset) -> None:
        self.how = backbone.preprocess
        self.bench = Workbench(dataset=dataset, device=torch.device("cpu"), progress=Quiet())
        self.train, self.held = hold_out(dataset.of("train"), 0.2, seed=0)
        features = extract_features(backbone, self.train, self.how, self.bench)
        head = fit_head("linear", [features], labels_of(self.train), 3, seed=0)
        self.classifier = Classifier(copy.deepcopy(backbone.module), head.module)

    def tune(self, epochs: int = 2, rate: float = 1e-3) -> History:
        settings = TuneSettings(epochs=epochs, batch=8, backbone_lr=rate, head_lr=rate)
        return tune_aware(self.classifier, self.train, self.held, self.how, settings, self.bench, ROUNDING)

    def layers(self) -> list[nn.Module]:
        return [each for each in self.classifier.backbone.modules() if isinstance(each, nn.Conv2d | nn.Linear)]


@pytest.fixture
def lesson(load: Callable[..., Backbone], dataset: Dataset) -> Lesson:
    return Lesson(load(), dataset)


def test_the_network_ends_in_float_with_nothing_of_the_rounding_left(lesson: Lesson) -> None:
    before = {name: tensor.clone() for name, tensor in lesson.classifier.state_dict().items()}
    lesson.tune()
    after = lesson.classifier.state_dict()
    assert set(after) == set(before)
    assert not any(parametrize.is_parametrized(each) for each in lesson.layers())
    assert not any(each._forward_pre_hooks for each in lesson.layers())
    assert not any(each.requires_grad for each in lesson.classifier.parameters())
    weight = lesson.layers()[0].weight
    assert isinstance(weight, torch.Tensor)
    # On no grid of so many levels: the weights that ship are rounded when the graph is quantized, not here.
    assert len(weight.unique()) > 2 * aware.TOP + 1


def test_it_learns_what_rounding_to_few_levels_had_broken(lesson: Lesson, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aware, "TOP", 1)
    history = lesson.tune(epochs=6, rate=5e-3)
    first, best = history.epochs[0], history.epochs[history.best]
    assert first.held_out_loss > 0.5
    assert best.held_out_loss < 0.7 * first.held_out_loss


def test_at_many_levels_it_begins_where_float_stood(lesson: Lesson) -> None:
    assert lesson.tune(epochs=0).epochs[0].held_out_accuracy == 1.0


def test_the_state_before_training_is_judged_with_activations_rounded_too(
    lesson: Lesson, monkeypatch: pytest.MonkeyPatch
) -> None:
    fine = lesson.tune(epochs=0).epochs[0].held_out_loss
    monkeypatch.setattr(aware, "MOST", 1)
    assert lesson.tune(epochs=0).epochs[0].held_out_loss > fine + 0.1


def test_what_diverges_is_an_error_and_leaves_no_rounding(lesson: Lesson) -> None:
    with torch.no_grad():
        lesson.classifier.head.weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match="cannot be trained on"):
        lesson.tune()
    assert not any(parametrize.is_parametrized(each) for each in lesson.layers())


def test_weights_are_rounded_a_channel_at_a_time_and_learn_as_if_they_were_not() -> None:
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [1.0, 10.0, 100.0, 0.0]
    ).view(4, 1, 1, 1)
    weight.requires_grad_(True)
    rounded = _RoundedWeight(in_pairs=False, per_channel=True)(weight)
    for channel, found in zip(weight.detach(), rounded.detach(), strict=True):
        step = float(channel.abs().max()) / 127
        if step == 0:
            assert not found.any()
            continue
        np.testing.assert_allclose(found.numpy() / step, (channel / step).round().numpy(), atol=1e-4)
    rounded.sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.ones_like(weight))


def test_weights_of_one_scale_lose_their_small_channels() -> None:
    weight = torch.ones(2, 3, 3, 3) * torch.tensor([1.0, 0.003]).view(2, 1, 1, 1)
    rounded = _RoundedWeight(in_pairs=False, per_channel=False)(weight)
    assert float(rounded[0].min()) == pytest.approx(1.0)
    assert not rounded[1].any()


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("groups", [8, 2, 1])
def test_weights_are_rounded_as_the_quantizer_does_it(groups: int, per_channel: bool) -> None:
    onnx = pytest.importorskip("onnx", reason="onnx makes the graph")
    layer = nn.Conv2d(8, 8, 3, groups=groups)
    weights = layer.weight.detach()
    node = onnx.helper.make_node("Conv", ["image", "weights"], ["logits"], group=groups)
    stored = onnx.numpy_helper.from_array(weights.numpy(), "weights")
    graph = onnx.helper.make_graph([node], "core", [], [], [stored])
    recipe = load_recipe("minmax").model_copy(update={"per_channel": per_channel})
    (reach,) = weight_overrides(graph, recipe).values()
    steps = torch.tensor([each["rmax"] / 127 for each in reach]).view(-1, 1, 1, 1)
    rounding = Rounding(in_pairs=True, per_channel=per_channel, symmetric=False)
    found = _rounded_weight(layer, rounding)(weights)
    assert torch.allclose(found, (weights / steps).round() * steps, atol=1e-6)


class TestInput:
    def test_it_is_rounded_to_256_levels_with_an_exact_zero(self) -> None:
        values = torch.cat([torch.zeros(1), torch.rand(999, generator=torch.Generator().manual_seed(0)) * 4 - 1])
        (rounded,) = _RoundedInput(symmetric=False)(nn.ReLU().train(), (values,))
        assert rounded[0] == 0
        assert len(rounded.unique()) <= 256
        assert float((rounded - values).abs().max()) <= 0.51 * 4 / 255

    def test_a_symmetric_range_leaves_half_the_levels_to_what_is_never_negative(self) -> None:
        values = torch.linspace(0, 1, 2000)
        (rounded,) = _RoundedInput(symmetric=True)(nn.ReLU().train(), (values,))
        assert len(rounded.unique()) == 128
        assert (float(rounded.min()), float(rounded.max())) == (0.0, pytest.approx(1.0))

    def test_the_first_batch_gives_a_range_before_training_too(self) -> None:
        values = torch.linspace(0, 1, 2000)
        (rounded,) = _RoundedInput(symmetric=False)(nn.ReLU().eval(), (values,))
        assert len(rounded.unique()) == 256

    def test_its_range_follows_training_and_stands_still_when_answering(self) -> None:
        layer, rounding = nn.ReLU(), _RoundedInput(symmetric=False)
        rounding(layer.train(), (torch.tensor([0.0, 1.0]),))
        (clipped,) = rounding(layer.eval(), (torch.tensor([0.0, 9.0]),))
        assert float(clipped.max()) == pytest.approx(1.0)
        rounding(layer.train(), (torch.tensor([0.0, 9.0]),))
        (wider,) = rounding(layer.eval(), (torch.tensor([0.0, 9.0]),))
        assert float(wider.max()) == pytest.approx(1.4, rel=0.01)
