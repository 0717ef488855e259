"""What of a network is trained and what stays as it is, BatchNorm's running statistics included."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["freeze", "unfreeze"]


def freeze(module: nn.Module) -> nn.Module:
    """Return the module with nothing trained: no gradients, dropout off, BatchNorm buffers left alone."""
    return module.eval().requires_grad_(False)


def unfreeze(module: nn.Module) -> nn.Module:
    """Return the module with everything trained but BatchNorm's running statistics, which stay the pretrained ones.

    The head was fitted on features that these statistics gave: with a batch's own, training would begin from answers
    that are mostly wrong (seen on edgetl/nano and digits: a loss of 12 in the first epoch).
    """
    module.train().requires_grad_(True)
    for part in module.modules():
        if isinstance(part, _BatchNorm):
            part.eval()
    return module
