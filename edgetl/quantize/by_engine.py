"""Quantizes a core graph in the way that an engine takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

import onnx

from edgetl.outcomes import Statistics
from edgetl.quantize.by_modelopt import type_graph
from edgetl.quantize.by_nncf import quantize_by_nncf
from edgetl.quantize.by_onnxruntime import quantize_graph
from edgetl.quantize.placement import floats_of, head_of
from edgetl.recipe import CalibrationRecipe
from edgetl.records import ImageArray, Precision

__all__ = ["always_float", "quantize_for"]

# Images that ModelOpt looks at besides; what is too large for float16 is bounded tenfold.
SAMPLE = 2
# What OpenVINO carries INT8 through by itself, and rounds the less: what moves values and computes nothing, and means,
# which gain no time in INT8. Seen on a shufflenet_v2_x1_0, 2 cores: INT8 takes 1.17 of float's time with what moves
# values quantized, 0.93 to 1.00 without.
CARRIED = frozenset(
    {
        "Flatten", "Gather", "GlobalAveragePool", "Pad", "ReduceMean", "Reshape", "Slice", "Split", "Squeeze",
        "Transpose", "Unsqueeze",
    }
)  # fmt: skip


def quantize_for(
    engine: str,
    model: onnx.ModelProto,
    statistics: Statistics,
    batches: Iterable[ImageArray],
    recipe: CalibrationRecipe,
    precisions: Sequence[Precision],
    float_layers: Sequence[str] = (),
) -> dict[Precision, onnx.ModelProto]:
    """Return the core graphs of these precisions, `fp32` not among them, for an engine.

    Args:
        engine: its name.
        model: the float core graph.
        statistics: of its activations, as `calibrate` finds them.
        batches: the images that it was calibrated with, uint8 of shape (images, height, width, 3) each.
        recipe: how weights are quantized, where the engine leaves a choice.
        precisions: what to make.
        float_layers: names of nodes that stay in float; none for TensorRT, which takes FP16 where INT8 loses too much.

    Raises:
        CalibrationError: an activation that is to be quantized has no range.
        MissingError: what quantizing for it needs is not installed.
    """
    coming = iter(batches)
    first = next(coming)
    if engine == "tensorrt":
        return type_graph(model, statistics, first[:SAMPLE], recipe, precisions)
    made: dict[Precision, onnx.ModelProto] = {}
    if "int8" in precisions and recipe.method == "nncf":
        made["int8"] = quantize_by_nncf(model, chain([first], coming), recipe, float_layers)
    elif "int8" in precisions:
        left = [*float_layers, *always_float(engine, model, recipe)]
        made["int8"] = quantize_graph(model, statistics, recipe, left)
    if "bf16" in precisions:  # OpenVINO's plugin computes the float graph in it
        made["bf16"] = model
    if "fp16" in precisions:
        made |= type_graph(model, statistics, first[:SAMPLE], recipe, ["fp16"])
    return made


def always_float(engine: str, model: onnx.ModelProto, recipe: CalibrationRecipe) -> list[str]:
    """Return the names of the nodes that stay in float for an engine, whatever they would lose: the linear layer that
    gives the logits and, where the recipe does not let NNCF place the pairs, what stands between the layers of a
    transformer, and what OpenVINO carries INT8 through."""
    if recipe.method == "nncf":
        return head_of(model.graph)
    carried = [node.name for node in model.graph.node if engine == "openvino" and node.op_type in CARRIED and node.name]
    return [*floats_of(model.graph), *carried]
