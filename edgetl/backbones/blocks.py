"""A network's blocks in order, from the photo to the features: what is unfrozen, and given its rate, together."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torchvision.models.regnet import AnyStage
from torchvision.models.vision_transformer import Encoder

__all__ = ["Block", "blocks_of"]

# What holds blocks one after another and does nothing else that is learnt, but for a vision transformer's positions.
LISTS = {AnyStage, Encoder, nn.ModuleList, nn.Sequential}


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Block:
    """A part of a network: its dotted name, its modules, and all their parameters; the first block has also those that
    belong to no module of its own, such as a vision transformer's positions."""

    name: str
    modules: tuple[nn.Module, ...]
    parameters: tuple[nn.Parameter, ...]


def blocks_of(network: nn.Module) -> tuple[Block, ...]:
    """Return a network's blocks in the order in which photos pass them; each parameter is in one.

    A normalisation that stands alone belongs to the block before it.

    Args:
        network: a backbone of torchvision's, or one made of its parts, without its head.
    """
    found: list[tuple[str, list[nn.Module], list[nn.Parameter]]] = []
    loose: list[nn.Parameter] = []

    def walk(name: str, module: nn.Module) -> None:
        if module is not network and type(module) not in LISTS:
            parameters = list(module.parameters())
            if found and all(each.ndim <= 1 for each in parameters):
                found[-1][1].append(module)
                found[-1][2].extend(parameters)
            elif parameters:
                found.append((name, [module], parameters))
            return
        loose.extend(module.parameters(recurse=False))
        for child_name, child in module.named_children():
            walk(f"{name}.{child_name}" if name else child_name, child)

    walk("", network)
    found[0][2].extend(loose)
    return tuple(
        Block(name=name, modules=tuple(modules), parameters=tuple(parameters)) for name, modules, parameters in found
    )
