"""Quantizes a core graph in the way that an engine takes."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from edgetl.quantize.by_modelopt import type_graph
from edgetl.quantize.by_onnxruntime import quantize_graph
from edgetl.quantize.ranges import Ranges
from edgetl.recipe import CalibrationRecipe
from edgetl.records import ImageArray, Precision

__all__ = ["quantize_for"]


def quantize_for(
    engine: str,
    model: onnx.ModelProto,
    ranges: Ranges,
    images: ImageArray,
    recipe: CalibrationRecipe,
    precisions: Sequence[Precision],
) -> dict[Precision, onnx.ModelProto]:
    """Return the core graphs of these precisions, `fp32` not among them, for an engine.

    Args:
        engine: its name.
        model: the float core graph.
        ranges: of its activations, as `calibrate` finds them.
        images: some of those that it was calibrated with, uint8 of shape (images, height, width, 3).
        recipe: how weights are quantized, where the engine leaves a choice.
        precisions: what to make.

    Raises:
        CalibrationError: an activation that is to be quantized has no range.
        MissingError: what quantizing for it needs is not installed.
    """
    if engine == "tensorrt":
        return type_graph(model, ranges, images, precisions)
    return {"int8": quantize_graph(model, ranges, recipe)}
