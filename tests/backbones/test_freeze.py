"""Tests of edgetl/backbones/freeze.py."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgetl.backbones import freeze, unfreeze


@pytest.fixture
def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten())


def buffers(network: nn.Module) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in network.named_buffers()}


def test_a_frozen_network_leaves_batchnorm_buffers_byte_identical(network: nn.Sequential) -> None:
    before = buffers(network)
    freeze(network)(torch.randn(8, 3, 6, 6))
    assert buffers(network) == before


def test_an_unfrozen_network_keeps_batchnorms_statistics_and_trains_its_scale(network: nn.Sequential) -> None:
    before = buffers(network)
    unfreeze(freeze(network))(torch.randn(8, 3, 6, 6)).sum().backward()
    assert buffers(network) == before
    assert network[1].weight.grad is not None


def test_a_frozen_network_has_no_gradients_and_no_dropout(network: nn.Sequential) -> None:
    photos = torch.randn(2, 3, 6, 6)
    first, second = freeze(network)(photos), network(photos)
    assert not first.requires_grad
    assert torch.equal(first, second)


def test_an_unfrozen_network_trains_everything(network: nn.Sequential) -> None:
    unfreeze(freeze(network))
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert [module.training for module in network] == [True, False, True, True]


def test_both_give_back_the_module_itself(network: nn.Sequential) -> None:
    assert freeze(network) is network
    assert unfreeze(network) is network
