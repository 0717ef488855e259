"""Fine-tuning that feels the rounding of INT8 (quantization-aware training): weights and activations are rounded in the
forward pass and learn as if they were not (Jacob et al. 2018; the straight-through estimator of Bengio et al. 2013)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from edgetl.data import Item
from edgetl.finetune.head import Classifier
from edgetl.finetune.loop import History, TuneSettings, tune
from edgetl.finetune.workbench import Workbench
from edgetl.records import Preprocess

__all__ = ["tune_aware"]

# How quickly the range of an activation follows that of the batches.
PACE = 0.05
# The largest value of a rounded activation.
MOST = 255
# The smallest scale: what is zero all over stays so.
LEAST = 1e-8


def tune_aware(
    classifier: Classifier,
    train: Sequence[Item],
    held: Sequence[Item],
    how: Preprocess,
    settings: TuneSettings,
    bench: Workbench,
    levels: int,
) -> History:
    """Return the history of fine-tuning, answers rounded as INT8 rounds them; the classifier ends, frozen and in float,
    in the state that answered best when rounded.

    Rounded are the weights of convolutions and linear layers, one scale an output channel, and what they read, but for
    the head, which quantizing leaves in float, and the photo, whose bytes are exact. A BatchNorm behind a layer scales
    its channels, so it changes nothing of their rounding. What torch's attention multiplies inside is not felt.

    Args:
        classifier: as fine-tuning left it.
        train: photos to train on.
        held: photos held out of training, which choose the state that is kept and when to stop.
        how: the preprocessing.
        settings: rates, epochs and the like.
        bench: where training runs, on which photos.
        levels: the largest rounded weight: 127, or 64 where a recipe reduces the range.

    Raises:
        TrainingError: a loss is not finite; the classifier is in the best state so far.
    """
    layers = [each for each in classifier.backbone.modules() if isinstance(each, nn.Conv2d | nn.Linear)]
    hooks = [each.register_forward_pre_hook(_RoundedInput()) for each in layers[1:]]
    for each in layers:
        parametrize.register_parametrization(each, "weight", _RoundedWeight(levels))
    try:
        return tune(classifier, train, held, how, settings, bench)
    finally:
        for hook in hooks:
            hook.remove()
        for each in layers:
            parametrize.remove_parametrizations(each, "weight", leave_parametrized=False)
        classifier.requires_grad_(False)


class _RoundedWeight(nn.Module):
    """Rounds weights of shape (outputs, ...), symmetrically, one scale an output."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self._levels = levels

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the weights as INT8 holds them."""
        largest = weight.detach().abs().flatten(1).amax(dim=1)
        scale = (largest / self._levels).clamp_min(LEAST)
        zero = torch.zeros_like(scale, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -self._levels, self._levels)


class _RoundedInput:
    """Rounds what a layer reads, by a range that follows the batches of training."""

    def __init__(self) -> None:
        self._range: torch.Tensor | None = None

    def __call__(self, layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the layer's inputs, the first of them rounded."""
        values: torch.Tensor = inputs[0]
        if self._range is None and not layer.training:
            return inputs  # nothing of training was seen yet
        if self._range is None or layer.training:
            low, high = torch.aminmax(values.detach().float())
            # Zero is exact: padding and ReLU give it.
            now = torch.stack([low.clamp_max(0.0), high.clamp_min(0.0)])
            self._range = now if self._range is None else self._range.lerp(now, PACE)
        scale = ((self._range[1] - self._range[0]) / MOST).clamp_min(LEAST)
        zero = (-self._range[0] / scale).round().to(torch.int32)
        rounded = torch.fake_quantize_per_tensor_affine(values.float(), scale, zero, 0, MOST)
        return (rounded.to(values.dtype), *inputs[1:])
