"""What is trained in which epoch, and how fast."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from edgetl.backbones import Block, blocks_of, freeze, unfreeze
from edgetl.errors import SettingsError
from edgetl.finetune.head import Classifier
from edgetl.records import Unfreeze

__all__ = ["Unfreezing", "trained_blocks", "trained_groups"]

# Share of the epochs after which gradual unfreezing has come to the first block.
OPENING = 0.5


def trained_blocks(backbone: nn.Module, how: Unfreeze) -> tuple[Block, ...]:
    """Return the blocks of a backbone that are trained in the end, in order; the head always is.

    Args:
        backbone: the network without its head.
        how: `all`, `gradual`, or `last:N`.

    Raises:
        SettingsError: the network has fewer blocks.
    """
    blocks = blocks_of(backbone)
    count = int(how.removeprefix("last:")) if how.startswith("last:") else len(blocks)
    if count > len(blocks):
        raise SettingsError(
            f"--unfreeze {how}: the network has {len(blocks)} blocks, from {blocks[0].name} to {blocks[-1].name}. Ask "
            "for fewer, or for all"
        )
    return blocks[len(blocks) - count :]


class Unfreezing:
    """Lets more and more of a classifier learn.

    `gradual` follows Howard and Ruder 2018 (ULMFiT), from the last block to the first, with as many blocks an epoch as
    it takes for all to learn in the second half; their first epoch, which trains the head alone, is the frozen stage.

    Args:
        classifier: what is trained.
        how: `all`, `gradual`, or `last:N`.
        epochs: of training.

    Raises:
        SettingsError: as `trained_blocks`.
    """

    def __init__(self, classifier: Classifier, how: Unfreeze, epochs: int) -> None:
        self._classifier = classifier
        self._gradual = how == "gradual"
        self._opening = max(1, math.ceil(OPENING * epochs))
        self.blocks = trained_blocks(classifier.backbone, how)

    def begin(self, epoch: int) -> None:
        """Unfreeze what is trained in an epoch, from 1 on, and freeze the rest; BatchNorm as `unfreeze` says."""
        unfreeze(self._classifier)
        share = min(1.0, epoch / self._opening) if self._gradual else 1.0
        learning = {id(each.modules[0]) for each in self.blocks[-math.ceil(share * len(self.blocks)) :]}
        for block in blocks_of(self._classifier.backbone):
            if id(block.modules[0]) not in learning:
                for module in block.modules:
                    freeze(module)
                for parameter in block.parameters:
                    parameter.requires_grad_(False)


def trained_groups(
    classifier: Classifier,
    blocks: tuple[Block, ...],
    backbone_lr: float,
    head_lr: float,
    weight_decay: float,
    layer_decay: float = 1.0,
) -> list[dict[str, Any]]:
    """Return the optimizer's groups: the last block at the backbone's rate, each before it at `layer_decay` times the
    rate of the one behind it, and the head at its own.

    Weights decay; biases and normalisation parameters do not.
    """
    rates = [(backbone_lr * layer_decay**depth, block.parameters) for depth, block in enumerate(reversed(blocks))]
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for rate, parameters in (*rates, (head_lr, classifier.head.parameters())):
        for parameter in parameters:
            groups.setdefault((rate, weight_decay if parameter.ndim > 1 else 0.0), []).append(parameter)
    return [{"params": each, "lr": rate, "weight_decay": decay} for (rate, decay), each in groups.items()]
