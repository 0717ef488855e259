"""Types a core graph for TensorRT with NVIDIA's ModelOpt: explicit Q/DQ pairs and Casts.

Precision is in the graph, so that one file serves TensorRT 10 and 11. TensorRT takes symmetric INT8 alone (every zero
point 0), wants Q/DQ where ModelOpt places them, and wants scales in the type of what is left in float, hence opset 19.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime import quantization
from onnxruntime.quantization import CalibrationDataReader

from edgetl.compile import feed_of
from edgetl.errors import CalibrationError, missing_library
from edgetl.outcomes import Ranges, Statistics
from edgetl.quantize.bias import correct_biases
from edgetl.quantize.quiet import quiet_tools
from edgetl.recipe import CalibrationRecipe
from edgetl.records import FloatArray, ImageArray, Precision

__all__ = ["type_graph"]

# What TensorRT 10.3 of JetPack 6 parses.
OPSET = 19
# A layer that sees larger values stays in float32: a tenth of float16's largest leaves room for other photos.
MOST = 6550.0
# The largest INT8 value.
TOP = 127
# float16's smallest number, which holds only such small ranges roughly: less would become 0, which TensorRT refuses.
LEAST_SCALE = 2.0**-24


def type_graph(
    model: onnx.ModelProto,
    statistics: Statistics,
    images: ImageArray,
    recipe: CalibrationRecipe,
    precisions: Sequence[Precision],
) -> dict[Precision, onnx.ModelProto]:
    """Return the typed graphs of a float core graph, by precision; their inputs and outputs stay float32.

    Args:
        model: the core graph: float32 `image` of shape (images, 3, height, width) holding pixel/255.
        statistics: of its activations, as `calibrate` finds them.
        images: some of those that it was calibrated with, uint8 of shape (images, height, width, 3): ModelOpt looks at
            the shapes that they give, and for what is too large for float16.
        recipe: whether biases are corrected.
        precisions: of `int8` (the rest in float32), `int8+fp16` and `fp16`.

    Raises:
        CalibrationError: ModelOpt quantizes an activation that has no range.
        MissingError: ModelOpt is not installed.
    """
    typed: dict[Precision, onnx.ModelProto] = {}
    feed = feed_of(model, images)
    with tempfile.TemporaryDirectory() as folder, quiet_tools(), _untouched_tools():
        source, whole, photos = (Path(folder) / name for name in ("core.onnx", "int8.onnx", "photos.npz"))
        onnx.save(model, source)
        np.savez(photos, **feed)  # type: ignore[arg-type]  # numpy types its one option only
        try:
            if {"int8", "int8+fp16"} & set(precisions):
                typed["int8"] = _place_pairs(source, whole, feed)
                _set_scales(typed["int8"].graph, statistics.ranges)
                if recipe.bias_correction:
                    correct_biases(model, typed["int8"], statistics.means)
                onnx.save(typed["int8"], whole)
            if "int8+fp16" in precisions:
                typed["int8+fp16"] = _in_float16(whole, photos)
            if "fp16" in precisions:
                typed["fp16"] = _in_float16(source, photos)
        except ModuleNotFoundError as error:
            library = (error.name or "").partition(".")[0].replace("modelopt", "nvidia-modelopt")
            raise missing_library(library, "train", "build for TensorRT") from error
    for graph in typed.values():
        del graph.graph.value_info[:], graph.metadata_props[:]
    return {precision: typed[precision] for precision in precisions}


def _place_pairs(source: Path, made: Path, feed: dict[str, FloatArray]) -> onnx.ModelProto:
    """Return the graph with Q/DQ pairs where ModelOpt wants them; the scales of activations are those of one feed."""
    from modelopt.onnx.quantization import quantize

    quantize(
        str(source),
        quantize_mode="int8",
        calibration_data_reader=_OneFeed(feed),
        calibration_method="max",
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        opset=OPSET,
        output_path=str(made),
        log_level="ERROR",
    )
    return onnx.load(made)


def _in_float16(source: Path, photos: Path) -> onnx.ModelProto:
    """Return the graph in float16 by ModelOpt's AutoCast, but for layers that see what is too large for it.

    Without photos it would look at what noise gives, and leave most layers in float32.
    """
    from modelopt.onnx.autocast import convert_to_mixed_precision

    typed: onnx.ModelProto = convert_to_mixed_precision(
        str(source), data_max=MOST, keep_io_types=True, calibration_data=str(photos)
    )
    return typed


def _set_scales(graph: onnx.GraphProto, ranges: Ranges) -> None:
    """Give each quantized activation the scale that holds its range: symmetric, so by its largest magnitude."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    pairs = [node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] not in stored]
    unknown = [pair.input[0] for pair in pairs if pair.input[0] not in ranges]
    if unknown:
        raise CalibrationError(f"ModelOpt quantizes {', '.join(unknown)}, whose range calibration did not find")
    scales = {pair.input[1]: max(LEAST_SCALE, max(map(abs, ranges[pair.input[0]])) / TOP) for pair in pairs}
    for group in _concatenated(graph, pairs):
        scales.update(dict.fromkeys(group, max(scales[name] for name in group)))
    for name, scale in scales.items():
        stored[name].CopyFrom(numpy_helper.from_array(np.array(scale, dtype=np.float32), name))


def _concatenated(graph: onnx.GraphProto, pairs: Sequence[onnx.NodeProto]) -> list[set[str]]:
    """Return the scales that ModelOpt wants to be one: of what a quantized Concat joins and gives, and of what hangs
    together by several of them. TensorRT then joins INT8 as it stands."""
    by_tensor = {pair.input[0]: pair.input[1] for pair in pairs}
    # What a DequantizeLinear gives -> the scale it was quantized with.
    back = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "DequantizeLinear"}
    groups: list[set[str]] = []
    for node in graph.node:
        if node.op_type == "Concat" and node.output[0] in by_tensor:
            group = {by_tensor[node.output[0]], *(back[name] for name in node.input if name in back)}
            touched = [each for each in groups if each & group]
            groups = [each for each in groups if not each & group] + [group.union(*touched)]
    return groups


class _OneFeed(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime carries no types
    """Gives one feed, in the form that ModelOpt asks for."""

    def __init__(self, feed: dict[str, FloatArray]) -> None:
        self._feed = feed
        self._feeds = iter([feed])

    def get_first(self) -> dict[str, FloatArray]:
        """Return the feed, which comes again: ModelOpt looks at the shapes that it gives."""
        return self._feed

    def get_next(self) -> dict[str, FloatArray] | None:
        """Return the feed, then None."""
        return next(self._feeds, None)


@contextmanager
def _untouched_tools() -> Iterator[None]:
    """Give ONNX Runtime's quantizer back as it was: ModelOpt changes its classes and its tables of operators for good,
    and what is quantized by it afterwards would fail, or be quantized otherwise."""
    modules = [module for name, module in sys.modules.items() if name.startswith(quantization.__name__)]
    classes = {thing for module in modules for thing in vars(module).values() if isinstance(thing, type)}
    own = [each for each in classes if each.__module__.startswith(quantization.__name__)]
    before = [(thing, dict(vars(thing))) for thing in (*modules, *own)]
    tables = [(table, dict(table)) for module in modules for table in vars(module).values() if type(table) is dict]
    try:
        yield
    finally:
        for table, content in tables:
            table.clear()
            table.update(content)
        for thing, attributes in before:
            for name in [name for name in vars(thing) if name not in attributes]:
                delattr(thing, name)
            for name, value in attributes.items():
                if vars(thing).get(name) is not value:
                    setattr(thing, name, value)
