"""Quantization-aware training: weights and activations are rounded in the forward pass as INT8 rounds them, and learn
as if they were not (Jacob et al. 2018; the straight-through estimator of Bengio et al. 2013)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from edgetl.data import Item
from edgetl.finetune.answers import EVALUATION_BATCH, classifier_logits
from edgetl.finetune.head import Classifier
from edgetl.finetune.loop import tune
from edgetl.finetune.workbench import Workbench
from edgetl.options import TuneSettings
from edgetl.outcomes import History
from edgetl.records import Preprocess

__all__ = ["Rounding", "tune_aware"]

# How quickly the range of an activation follows that of the batches.
PACE = 0.05
# The largest rounded weight.
TOP = 127
# The largest value of a rounded activation.
MOST = 255
# The smallest scale: what is zero all over stays so.
LEAST = 1e-8


@dataclass(frozen=True, kw_only=True, slots=True)
class Rounding:
    """How a quantizer rounds: `in_pairs` says that no two weights side by side come to more than `TOP`, but for those
    of depthwise convolutions, `per_channel` that each output channel has a scale of its own, and `symmetric` that
    activations have as many values below zero as above, whether they use them or not."""

    in_pairs: bool
    per_channel: bool
    symmetric: bool


def tune_aware(
    classifier: Classifier,
    train: Sequence[Item],
    held: Sequence[Item],
    how: Preprocess,
    settings: TuneSettings,
    bench: Workbench,
    rounding: Rounding,
) -> History:
    """Return the history of fine-tuning, answers rounded as INT8 rounds them; the classifier ends, frozen and in float,
    in the state that answered best when rounded.

    Rounded are the weights of convolutions and linear layers, and what these read, but for the head, which quantizing
    leaves in float, and the photo, whose bytes are exact. A BatchNorm behind a layer scales its channels, so it changes
    nothing of their rounding where each has a scale. What torch's attention multiplies inside is not rounded.

    Args:
        classifier: as fine-tuning left it.
        train: photos to train on.
        held: photos held out of training, which choose the state that is kept and when to stop.
        how: the preprocessing.
        settings: rates, epochs and the like.
        bench: where training runs, on which photos.
        rounding: as the quantizer rounds that comes after.

    Raises:
        TrainingError: a loss is not finite; the classifier is in the best state so far.
    """
    layers = [each for each in classifier.backbone.modules() if isinstance(each, nn.Conv2d | nn.Linear)]
    hooks = [each.register_forward_pre_hook(_RoundedInput(rounding.symmetric)) for each in layers[1:]]
    for each in layers:
        parametrize.register_parametrization(each, "weight", _rounded_weight(each, rounding))
    try:
        # One batch that gives first ranges: else the state before training would be judged with activations in float.
        classifier_logits(classifier, train[:: -(-len(train) // EVALUATION_BATCH)], how, bench)
        return tune(classifier, train, held, how, settings, bench)
    finally:
        for hook in hooks:
            hook.remove()
        for each in layers:
            parametrize.remove_parametrizations(each, "weight", leave_parametrized=False)
        classifier.requires_grad_(False)


def _rounded_weight(layer: nn.Module, rounding: Rounding) -> _RoundedWeight:
    depthwise = isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1
    return _RoundedWeight(in_pairs=rounding.in_pairs and not depthwise, per_channel=rounding.per_channel)


class _RoundedWeight(nn.Module):
    """Rounds weights of shape (outputs, ...), symmetrically, with a scale for each output or one for all."""

    def __init__(self, in_pairs: bool, per_channel: bool) -> None:
        super().__init__()
        self._in_pairs, self._per_channel = in_pairs, per_channel

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the weights as INT8 holds them."""
        # Channels last, as kernels read them.
        sizes = weight.detach().abs().movedim(1, -1).flatten(1)
        largest = sizes.amax(dim=1)
        if self._in_pairs and sizes.shape[1] > 1:
            largest = torch.maximum(largest, (sizes[:, 1:] + sizes[:, :-1]).amax(dim=1))
        if not self._per_channel:
            largest = largest.max().expand_as(largest)
        scale = (largest / TOP).clamp_min(LEAST)
        zero = torch.zeros_like(scale, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -TOP, TOP)


class _RoundedInput:
    """Rounds what a layer reads, by a range that begins at the first batch and follows those of training."""

    def __init__(self, symmetric: bool) -> None:
        self._symmetric = symmetric
        self._range: torch.Tensor | None = None

    def __call__(self, layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the layer's inputs, the first of them rounded."""
        values: torch.Tensor = inputs[0]
        if self._range is None or layer.training:
            low, high = torch.aminmax(values.detach().float())
            # Zero is exact: padding and ReLU give it.
            now = torch.stack([low.clamp_max(0.0), high.clamp_min(0.0)])
            self._range = now if self._range is None else self._range.lerp(now, PACE)
        low, high = self._range
        if self._symmetric:
            high = torch.maximum(-low, high)
            low = -high * (MOST - MOST // 2) / (MOST // 2)  # of -128 to 127
        scale = ((high - low) / MOST).clamp_min(LEAST)
        zero = (-low / scale).round().to(torch.int32)
        rounded = torch.fake_quantize_per_tensor_affine(values.float(), scale, zero, 0, MOST)
        return (rounded.to(values.dtype), *inputs[1:])
