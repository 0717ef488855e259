"""One network of each family, for the tests of what must hold of all."""

from __future__ import annotations

# One of each family, with photos as small as it reads.
FAMILIES = {
    "alexnet": 64, "convnext_tiny": 32, "densenet121": 32, "efficientnet_b0": 32, "efficientnet_v2_s": 32,
    "googlenet": 32, "inception_v3": 75, "maxvit_t": 224, "mnasnet0_5": 32, "mobilenet_v2": 32,
    "mobilenet_v3_small": 32, "regnet_y_400mf": 32, "resnet18": 32, "resnext50_32x4d": 32, "shufflenet_v2_x0_5": 32,
    "squeezenet1_1": 32, "swin_t": 32, "swin_v2_t": 64, "vgg11_bn": 32, "vit_b_16": 32, "wide_resnet50_2": 32,
}  # fmt: skip
