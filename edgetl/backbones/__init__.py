"""Pretrained networks without their heads: photos in, features out."""

from edgetl.backbones.blocks import Block, blocks_of
from edgetl.backbones.freeze import freeze, unfreeze
from edgetl.backbones.zoo import Backbone, WeightsChoice, backbone_names, choose_weights, load_backbone

__all__ = [
    "Backbone",
    "Block",
    "WeightsChoice",
    "backbone_names",
    "blocks_of",
    "choose_weights",
    "freeze",
    "load_backbone",
    "unfreeze",
]
