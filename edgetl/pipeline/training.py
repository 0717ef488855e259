"""How a network is trained: from which weights, in which stages, at which rates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from edgetl.backbones import WeightsChoice
from edgetl.finetune import Rounding, TuneSettings
from edgetl.options import TuneOptions
from edgetl.outcomes import ViewChoice
from edgetl.pipeline.results import Tuned
from edgetl.pipeline.settings import BuildSettings
from edgetl.pipeline.stages import Stage
from edgetl.recipe import CalibrationRecipe
from edgetl.runtime import PLANNED

__all__ = ["Training", "qat_tuning_of", "rounding_of", "tuning_of"]

# AdamW's rates for the backbone: held-out photos of TrashNet (squeezenet1_1) and of digits (edgetl/nano) answered best.
# The head's is five times as high: it is new.
RATE, RATE_WITH_BATCHNORM, HEAD_RATE = 2e-4, 1e-3, 5
# Share of the rates that quantization-aware training has.
GENTLE = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """How a network is trained: from which weights, where, and in which stages."""

    weights: WeightsChoice
    device: torch.device
    view: Stage
    frozen: Stage
    tuned: Stage


def tuning_of(
    training: Training, settings: BuildSettings, network: nn.Module, rate: float | None = None
) -> TuneSettings:
    """Return the settings of the fine-tuning stage, once the view stage is done.

    Args:
        training: where the network is trained, and in which stages.
        settings: what the user asks for.
        network: what is tuned.
        rate: of the backbone; None for the one that was asked for, or that suits such a network.
    """
    if rate is None and isinstance(settings.lr, float):
        rate = settings.lr
    if rate is None:
        kinds = (type(part).__name__ for part in network.modules())
        rate = RATE_WITH_BATCHNORM if any(kind.startswith("BatchNorm") for kind in kinds) else RATE
    return TuneSettings(
        **{name: getattr(settings, name) for name in TuneOptions.model_fields},
        backbone_lr=rate,
        head_lr=min(1.0, HEAD_RATE * rate),
        mirror=training.view.read("view", ViewChoice).mirror,
        seed=settings.seed,
    )


def qat_tuning_of(training: Training, settings: BuildSettings, network: nn.Module) -> TuneSettings:
    """Return the settings of quantization-aware training: gentle, for what fine-tuning found is to be kept."""
    usual = tuning_of(training, settings, network, training.tuned.read("tuned", Tuned).rate)
    rates = {"backbone_lr": GENTLE * usual.backbone_lr, "head_lr": GENTLE * usual.head_lr}
    # Ranges of activations are those of the network as it stands: not of an average of states.
    return usual.model_copy(update={"epochs": settings.qat, "ema": 0.0, "compile": False, **rates})


def rounding_of(engine: str, recipe: CalibrationRecipe) -> Rounding:
    """Return how what quantizes for an engine by a recipe rounds, for quantization-aware training."""
    if engine == PLANNED:
        return Rounding(in_pairs=False, per_channel=True, symmetric=True)
    symmetric = recipe.method == "nncf" and recipe.preset == "performance"
    return Rounding(in_pairs=recipe.reduce_range, per_channel=recipe.per_channel, symmetric=symmetric)
