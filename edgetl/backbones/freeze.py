"""What of a network is trained and what stays as it is, BatchNorm's running statistics included."""

from __future__ import annotations

from torch import nn

__all__ = ["freeze", "unfreeze"]


def freeze(module: nn.Module) -> nn.Module:
    """Return the module with nothing trained: no gradients, dropout off, BatchNorm buffers left alone."""
    return module.eval().requires_grad_(False)


def unfreeze(module: nn.Module) -> nn.Module:
    """Return the module with everything trained, BatchNorm's running statistics included."""
    return module.train().requires_grad_(True)
