"""Finds the range of every activation of a core graph, with ONNX Runtime's calibrators, and the mean input of every
channel: once, for every engine."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator

from edgetl.compile import feed_of
from edgetl.errors import CalibrationError
from edgetl.quantize.quiet import quiet_tools
from edgetl.recipe import CalibrationRecipe
from edgetl.records import FloatArray, ImageArray, Record

__all__ = ["Ranges", "Statistics", "calibrate"]

# The smallest and the largest value of a tensor that its quantized form shall hold, by the tensor's name.
Ranges = dict[str, tuple[float, float]]

# Method -> ONNX Runtime's, and what is said to it.
METHODS: dict[str, tuple[CalibrationMethod, dict[str, Any]]] = {
    "minmax": (CalibrationMethod.MinMax, {}),
    "moving-average": (CalibrationMethod.MinMax, {"moving_average": True, "averaging_constant": 0.1}),
    "entropy": (CalibrationMethod.Entropy, {}),
    "percentile": (CalibrationMethod.Percentile, {}),
}
MEAN = "_channel_means"


class Statistics(Record):
    """What calibration saw of each activation, by its name: the range that its quantized form shall hold and, of what
    convolutions read, the mean of each channel."""

    ranges: Ranges
    means: dict[str, tuple[float, ...]]


def calibrate(model: onnx.ModelProto, batches: Iterable[ImageArray], recipe: CalibrationRecipe) -> Statistics:
    """Return the statistics of every activation; the image's range is 0 to 1, whatever was seen.

    Args:
        model: the core graph: float32 `image` of shape (images, 3, height, width) holding pixel/255.
        batches: calibration images, uint8 of shape (images, height, width, 3).
        recipe: its method.

    Raises:
        CalibrationError: no image came, or an activation or an answer is not finite.
    """
    image = model.graph.input[0].name
    read = sorted({node.input[0] for node in model.graph.node if node.op_type == "Conv"})
    sums: dict[str, npt.NDArray[np.float64]] = {}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "core.onnx"
        onnx.save(model, source)
        with quiet_tools():
            method, options = METHODS[recipe.method]
            calibrator = create_calibrator(
                source,
                op_types_to_calibrate=None,
                augmented_model_path=str(Path(folder) / "augmented.onnx"),
                calibrate_method=method,
                extra_options=options,
            )
        network = onnxruntime.InferenceSession(_with_means(model, read), providers=["CPUExecutionProvider"])
        seen = 0
        for images in batches:
            feed = feed_of(model, images)
            which = f"for calibration images {seen + 1} to {seen + len(images)}"
            # The calibrators take a NaN for a small number.
            logits, *means = network.run(None, feed)
            if not np.isfinite(logits).all():
                raise CalibrationError(
                    f"the network's answers {which} are not finite, so its activations have no range. Is a weight NaN "
                    "or far too large?"
                )
            with quiet_tools(), _in_our_words(which):
                calibrator.collect_data(_OneBatch(feed))
            for name, mean in zip(read, means, strict=True):
                sums[name] = sums.get(name, np.zeros(mean.shape)) + len(images) * mean.astype(np.float64)
            seen += len(images)
        if seen == 0:
            raise CalibrationError("no image came to calibrate with")
        with quiet_tools(), _in_our_words("for the calibration images"):
            data = calibrator.compute_data().data
    ranges = {
        name: (float(np.min(each.range_value[0])), float(np.max(each.range_value[1]))) for name, each in data.items()
    }
    endless = [name for name, both in ranges.items() if not np.isfinite(both).all()]
    if endless:
        raise CalibrationError(f"the network's activations {', '.join(endless)} are not finite, so they have no range")
    return Statistics(
        ranges={**ranges, image: (0.0, 1.0)},
        means={name: tuple((total / seen).tolist()) for name, total in sums.items()},
    )


def _with_means(model: onnx.ModelProto, tensors: Sequence[str]) -> bytes:
    """Return the graph with the channel means of these tensors, over images and places, beside its logits."""
    wide = onnx.ModelProto.FromString(model.SerializeToString())
    graph = wide.graph
    graph.initializer.append(numpy_helper.from_array(np.array([0, 2, 3]), MEAN))
    for name in tensors:
        graph.node.append(helper.make_node("ReduceMean", [name, MEAN], [f"{name}{MEAN}"], keepdims=0))
        graph.output.append(onnx.ValueInfoProto(name=f"{name}{MEAN}"))
    serialized: bytes = wide.SerializeToString()
    return serialized


@contextmanager
def _in_our_words(which: str) -> Iterator[None]:
    """Say what numpy says of a histogram from or to infinity."""
    try:
        yield
    except ValueError as error:
        raise CalibrationError(f"the network's activations {which} have no range: {error}") from error


class _OneBatch(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime carries no types
    """Gives one batch, then nothing: the calibrator is fed batch by batch, so that it never holds them all."""

    def __init__(self, feed: dict[str, FloatArray]) -> None:
        self._feeds = iter([feed])

    def get_next(self) -> dict[str, FloatArray] | None:
        return next(self._feeds, None)
