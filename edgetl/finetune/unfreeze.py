"""Which parameters are trained, and how fast each."""

from __future__ import annotations

from typing import Any

from torch import nn

from edgetl.backbones import unfreeze
from edgetl.finetune.head import Classifier

__all__ = ["trained_groups"]


def trained_groups(
    classifier: Classifier, backbone_lr: float, head_lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Return the optimizer's groups, after unfreezing everything: the backbone slowly, the head faster.

    Weights decay; biases and normalisation parameters do not.
    """
    unfreeze(classifier)
    parts: tuple[tuple[nn.Module, float], ...] = ((classifier.backbone, backbone_lr), (classifier.head, head_lr))
    groups = []
    for part, rate in parts:
        parameters = list(part.parameters())
        groups.append({"params": [p for p in parameters if p.ndim > 1], "lr": rate, "weight_decay": weight_decay})
        groups.append({"params": [p for p in parameters if p.ndim <= 1], "lr": rate, "weight_decay": 0.0})
    return [group for group in groups if group["params"]]
