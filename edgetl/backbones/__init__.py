"""Pretrained networks without their heads: photos in, features out."""

from edgetl.backbones.freeze import freeze, unfreeze
from edgetl.backbones.zoo import Backbone, WeightsChoice, backbone_names, choose_weights, load_backbone

__all__ = [
    "Backbone",
    "WeightsChoice",
    "backbone_names",
    "choose_weights",
    "freeze",
    "load_backbone",
    "unfreeze",
]
