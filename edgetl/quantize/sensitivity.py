"""Measures how much of the logits' signal quantization leaves, and which layers it hurts most."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from edgetl.compile import feed_of
from edgetl.metrics import MOST_DB, signal_to_noise
from edgetl.outcomes import Statistics
from edgetl.quantize.by_onnxruntime import quantize_graph
from edgetl.quantize.mapped import open_mapped
from edgetl.recipe import CalibrationRecipe
from edgetl.records import FloatArray, ImageArray, Progress

__all__ = ["measure_signal", "rank_layers"]

# Layers that multiply by weights, and means, whose few values a head may read in float: what the others lose, they
# pass on.
RANKED = {"Conv", "ConvTranspose", "Gemm", "GlobalAveragePool", "MatMul", "ReduceMean"}
# Images that go through a graph at once: its activations are all that memory holds of them.
AT_ONCE = 4


def rank_layers(
    model: onnx.ModelProto,
    statistics: Statistics,
    recipe: CalibrationRecipe,
    images: ImageArray,
    progress: Progress,
    always_float: Sequence[str] = (),
) -> dict[str, float]:
    """Return the signal-to-noise ratio of the logits, in decibels, with one layer quantized alone, by the layer's name,
    worst first; layers that are in float anyway, and those whose quantization changes nothing, are left out.

    Args:
        model: the core graph.
        statistics: of its activations, as `calibrate` finds them.
        recipe: how weights are quantized.
        images: training photos, uint8 of shape (images, height, width, 3).
        progress: counts the layers.
        always_float: names of nodes that are in float anyway.
    """
    layers = [node.name for node in model.graph.node if node.op_type in RANKED and node.name]
    layers = [name for name in layers if name not in always_float]
    expected = _answer(model, images)
    ratios = {
        layer: signal_to_noise(expected, _answer(quantize_graph(model, statistics, recipe, only=[layer]), images))
        for layer in progress.track(layers, "quantizing layers one by one", len(layers))
    }
    hurt = {layer: ratio for layer, ratio in ratios.items() if ratio < MOST_DB}
    return dict(sorted(hurt.items(), key=lambda each: each[1]))


def measure_signal(
    original: onnx.ModelProto,
    model: onnx.ModelProto,
    statistics: Statistics,
    recipe: CalibrationRecipe,
    images: ImageArray,
) -> float:
    """Return the signal-to-noise ratio of a graph's logits, in decibels, once another that is to compute the same is
    quantized as ONNX Runtime takes it; `MOST_DB` where they stay. The others are those of `rank_layers`."""
    return signal_to_noise(_answer(original, images), _answer(quantize_graph(model, statistics, recipe), images))


def _answer(model: onnx.ModelProto, images: ImageArray) -> FloatArray:
    session = open_mapped(model, as_defined=True)
    parts = (images[start : start + AT_ONCE] for start in range(0, len(images), AT_ONCE))
    return np.concatenate([session.run(None, feed_of(model, part))[0] for part in parts])
