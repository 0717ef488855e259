"""How a network is trained: from which weights, in which stages, at which rates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from edgetl.backbones import WeightsChoice
from edgetl.finetune import Rounding, TuneSettings
from edgetl.outcomes import ViewChoice
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


def tuning_of(training: Training, settings: BuildSettings, network: nn.Module) -> TuneSettings:
    """Return the settings of the fine-tuning stage, once the view stage is done; `network` is what is tuned."""
    rate = settings.lr
    if rate is None:
        kinds = (type(part).__name__ for part in network.modules())
        rate = RATE_WITH_BATCHNORM if any(kind.startswith("BatchNorm") for kind in kinds) else RATE
    return TuneSettings(
        epochs=settings.epochs,
        backbone_lr=rate,
        head_lr=min(1.0, HEAD_RATE * rate),
        unfreeze=settings.unfreeze,
        layer_decay=settings.layer_decay,
        mirror=training.view.read("view", ViewChoice).mirror,
        seed=settings.seed,
    )


def qat_tuning_of(training: Training, settings: BuildSettings, network: nn.Module) -> TuneSettings:
    """Return the settings of quantization-aware training: gentle, for what fine-tuning found is to be kept."""
    usual = tuning_of(training, settings, network)
    rates = {"backbone_lr": GENTLE * usual.backbone_lr, "head_lr": GENTLE * usual.head_lr}
    return usual.model_copy(update={"epochs": settings.qat, **rates})


def rounding_of(engine: str, recipe: CalibrationRecipe) -> Rounding:
    """Return how what quantizes for an engine by a recipe rounds, for quantization-aware training."""
    if engine == PLANNED:
        return Rounding(in_pairs=False, per_channel=True, symmetric=True)
    symmetric = recipe.method == "nncf" and recipe.preset == "performance"
    return Rounding(in_pairs=recipe.reduce_range, per_channel=recipe.per_channel, symmetric=symmetric)
