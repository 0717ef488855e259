"""Tests of edgetl/backbones/blocks.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from edgetl.backbones import Backbone, blocks_of, choose_weights, load_backbone
from tests.backbones.families import FAMILIES


@pytest.fixture(scope="module", params=["edgetl/nano", *(f"torchvision/{name}" for name in FAMILIES)])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    name = request.param
    side = FAMILIES.get(name.removeprefix("torchvision/"), 32)
    return load_backbone(name, choose_weights(name, "random", 0), side)


def test_every_parameter_is_in_one_block(backbone: Backbone) -> None:
    found = [id(parameter) for block in blocks_of(backbone.module) for parameter in block.parameters]
    assert sorted(found) == sorted(id(parameter) for parameter in backbone.module.parameters())


def test_photos_pass_them_in_order(backbone: Backbone) -> None:
    passed: list[str] = []
    blocks = blocks_of(backbone.module)

    def note(name: str) -> Callable[..., None]:
        return lambda module, given, gives: passed.append(name)

    hooks = [block.modules[0].register_forward_hook(note(block.name)) for block in blocks]
    with torch.inference_mode():
        backbone.module.eval()(torch.zeros(1, 3, backbone.preprocess.side, backbone.preprocess.side))
    for hook in hooks:
        hook.remove()
    assert passed == [block.name for block in blocks]


def test_they_are_neither_a_layer_each_nor_all_in_one(backbone: Backbone) -> None:
    layers = sum(isinstance(module, nn.Conv2d | nn.Linear) for module in backbone.module.modules())
    most = layers if backbone.name.endswith(("alexnet", "vgg11_bn")) else layers / 2
    assert 5 <= len(blocks_of(backbone.module)) <= most


def test_positions_belong_to_the_first_block() -> None:
    vit = load_backbone("torchvision/vit_b_16", choose_weights("torchvision/vit_b_16", "random", 0), 32).module
    first, second, *_ = blocks_of(vit)
    assert (first.name, second.name) == ("conv_proj", "encoder.layers.encoder_layer_0")
    assert {id(vit.class_token), id(vit.encoder.pos_embedding)} < set(map(id, first.parameters))
