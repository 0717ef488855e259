"""Quantizes a core graph to INT8 with Intel's NNCF: its placement of Q/DQ pairs, its ranges, its bias correction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from edgetl.compile import feed_of
from edgetl.errors import CalibrationError, missing_library
from edgetl.quantize.placement import head_of
from edgetl.quantize.quiet import quiet_tools
from edgetl.recipe import CalibrationRecipe
from edgetl.records import ImageArray

__all__ = ["quantize_by_nncf"]

# What quantizes, and the image's bytes as they stand.
PAIR = {"QuantizeLinear", "DequantizeLinear"}
IMAGE_SCALE, IMAGE_ZERO = "image_levels_scale", "image_levels_zero"


def quantize_by_nncf(
    model: onnx.ModelProto, batches: Iterable[ImageArray], recipe: CalibrationRecipe, float_layers: Sequence[str] = ()
) -> onnx.ModelProto:
    """Return the INT8 graph of a float core graph, as `nncf.quantize` makes it; its input and output stay float32.

    The input keeps scale 1/255 and zero point 0, so that a photo's bytes are the first quantized activation as they
    stand; the linear layer that gives the logits stays in float.

    Args:
        model: the core graph: float32 `image` of shape (images, 3, height, width) holding pixel/255.
        batches: calibration images, uint8 of shape (images, height, width, 3); all of them are kept in memory.
        recipe: its preset, whether the network is a transformer, and whether biases are corrected layer by layer.
        float_layers: names of nodes that stay in float.

    Raises:
        CalibrationError: no image came, or NNCF cannot quantize the graph.
        MissingError: NNCF is not installed.
    """
    try:
        import nncf
    except ImportError:
        raise missing_library("nncf", "train", f"quantize by recipe {recipe.name}") from None
    images = [image[None] for batch in batches for image in batch]
    if not images:
        raise CalibrationError("no image came to calibrate with")
    kept = [*head_of(model.graph), *float_layers]
    with quiet_tools():
        try:
            quantized: onnx.ModelProto = nncf.quantize(
                onnx.ModelProto.FromString(model.SerializeToString()),
                nncf.Dataset(images, lambda image: feed_of(model, image)),
                preset=nncf.QuantizationPreset(recipe.preset),
                model_type=nncf.ModelType.TRANSFORMER if recipe.transformer else None,
                subset_size=len(images),
                fast_bias_correction=not recipe.bias_correction,
                ignored_scope=nncf.IgnoredScope(names=kept) if kept else None,
            )
        except Exception as error:  # NNCF raises its own unrelated classes
            reason = " ".join(str(error).split()) or type(error).__name__
            raise CalibrationError(f"NNCF {nncf.__version__} cannot quantize this network: {reason}") from error
    _pin_image(quantized.graph)
    del quantized.graph.value_info[:], quantized.metadata_props[:]
    return quantized


def _pin_image(graph: onnx.GraphProto) -> None:
    """Let the image be quantized as its bytes are, whatever range was seen."""
    image = graph.input[0].name
    quantized = {node.output[0] for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == image}
    pinned = [node for node in graph.node if quantized & {*node.output, node.input[0]} and node.op_type in PAIR]
    for node in pinned:
        node.input[1:] = [IMAGE_SCALE, IMAGE_ZERO]
    if pinned:
        graph.initializer.append(numpy_helper.from_array(np.array(1 / 255, dtype=np.float32), IMAGE_SCALE))
        graph.initializer.append(numpy_helper.from_array(np.array(0, dtype=np.uint8), IMAGE_ZERO))
