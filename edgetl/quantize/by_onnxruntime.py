"""Quantizes a core graph to INT8 with ONNX Runtime's tools: Q/DQ pairs, uint8 activations, int8 weights."""

from __future__ import annotations

import io
import logging
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, create_calibrator
from onnxruntime.quantization.calibrate import TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from edgetl.errors import CalibrationError
from edgetl.recipe import CalibrationRecipe
from edgetl.records import FloatArray, ImageArray

__all__ = ["quantize_graph"]

METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
# Branches of a Concat share one scale if none loses more than two bits by it: the Concat is then a plain copy.
SHARED_RANGE = 0.25


def quantize_graph(model: onnx.ModelProto, batches: Iterable[ImageArray], recipe: CalibrationRecipe) -> onnx.ModelProto:
    """Return the INT8 graph of a float core graph; its input and output stay float32.

    The input keeps scale 1/255 and zero point 0, so that a photo's bytes are the first quantized activation as they
    stand.

    Args:
        model: the core graph: float32 `image` of shape (images, 3, height, width) holding pixel/255.
        batches: calibration images, uint8 of shape (images, height, width, 3).
        recipe: method and options.

    Raises:
        CalibrationError: no image came, or the network answers with what is not finite.
    """
    ranges = _calibrate(model, batches, recipe)
    image = model.graph.input[0].name
    ranges[image] = (0.0, 1.0)
    _share_ranges(model.graph, ranges)
    quantizer = QDQQuantizer(
        onnx.ModelProto.FromString(model.SerializeToString()),
        per_channel=recipe.per_channel,
        reduce_range=recipe.reduce_range,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=_as_tensors_data(ranges),
        nodes_to_quantize=[],
        nodes_to_exclude=_head_of(model.graph),
        op_types_to_quantize=sorted({*QLinearOpsRegistry, *QDQRegistry}),
        extra_options={"TensorQuantOverrides": {image: [{"rmin": np.float32(0), "rmax": np.float32(1)}]}},
    )
    with _quiet_tools():
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    quantized: onnx.ModelProto = quantizer.model.model
    del quantized.graph.value_info[:], quantized.metadata_props[:]
    return quantized


class _OneBatch(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime carries no types
    """Gives one batch, then nothing: the calibrator is fed batch by batch, so that it never holds them all."""

    def __init__(self, feed: dict[str, FloatArray]) -> None:
        self._feeds = iter([feed])

    def get_next(self) -> dict[str, FloatArray] | None:
        return next(self._feeds, None)


def _calibrate(
    model: onnx.ModelProto, batches: Iterable[ImageArray], recipe: CalibrationRecipe
) -> dict[str, tuple[float, float]]:
    """Return the range of every activation by name."""
    with tempfile.TemporaryDirectory() as folder, _quiet_tools():
        source = Path(folder) / "core.onnx"
        onnx.save(model, source)
        calibrator = create_calibrator(
            source,
            op_types_to_calibrate=None,
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=METHODS[recipe.method],
        )
        network = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
        seen = 0
        for images in batches:
            planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).astype(np.float32) / np.float32(255)
            feed = {model.graph.input[0].name: planes}
            # The calibrators take a NaN for a small number, or fail in their own words.
            if not all(np.isfinite(output).all() for output in network.run(None, feed)):
                raise CalibrationError(
                    f"the network's answers for calibration images {seen + 1} to {seen + len(images)} are not finite, "
                    "so its activations have no range. Is a weight NaN or far too large?"
                )
            calibrator.collect_data(_OneBatch(feed))
            seen += len(images)
        if seen == 0:
            raise CalibrationError("no image came to calibrate with")
        data = calibrator.compute_data().data
    return {
        name: (float(np.min(each.range_value[0])), float(np.max(each.range_value[1]))) for name, each in data.items()
    }


def _head_of(graph: onnx.GraphProto) -> list[str]:
    """Return the name of the linear layer that gives the logits, if one does: it is tiny, and stays in float.

    Seen on a tuned squeezenet1_1: half a decibel more signal in the logits, and no time lost.
    """
    logits = graph.output[0].name
    heads = [node for node in graph.node if logits in node.output and node.op_type in {"Gemm", "MatMul"}]
    return [node.name for node in heads if node.name]


def _share_ranges(graph: onnx.GraphProto, ranges: dict[str, tuple[float, float]]) -> None:
    """Give the branches of each Concat one common range, where that costs little precision."""
    for node in graph.node:
        names = [*node.input, *node.output]
        if node.op_type != "Concat" or not all(name in ranges for name in names):
            continue
        low, high = min(ranges[name][0] for name in names), max(ranges[name][1] for name in names)
        if all(ranges[name][1] - ranges[name][0] >= SHARED_RANGE * (high - low) for name in names):
            ranges.update(dict.fromkeys(names, (low, high)))


def _as_tensors_data(ranges: dict[str, tuple[float, float]]) -> TensorsData:
    return TensorsData(
        CalibrationMethod.MinMax,
        {name: TensorData(lowest=np.float32(low), highest=np.float32(high)) for name, (low, high) in ranges.items()},
    )


@contextmanager
def _quiet_tools() -> Iterator[None]:
    """Keep the tools' advice about their own pre-processing from the user: the graph arrives preprocessed."""
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.getLogger().setLevel(level)
