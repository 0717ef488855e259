"""Finds the range of every activation of a core graph, with ONNX Runtime's calibrators: once, for every engine."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator

from edgetl.compile import feed_of
from edgetl.errors import CalibrationError
from edgetl.quantize.quiet import quiet_tools
from edgetl.recipe import CalibrationRecipe
from edgetl.records import FloatArray, ImageArray

__all__ = ["Ranges", "calibrate"]

# The smallest and the largest value of a tensor that its quantized form shall hold, by the tensor's name.
Ranges = dict[str, tuple[float, float]]

METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}


def calibrate(model: onnx.ModelProto, batches: Iterable[ImageArray], recipe: CalibrationRecipe) -> Ranges:
    """Return the range of every activation; the image's is 0 to 1, whatever was seen.

    Args:
        model: the core graph: float32 `image` of shape (images, 3, height, width) holding pixel/255.
        batches: calibration images, uint8 of shape (images, height, width, 3).
        recipe: its method.

    Raises:
        CalibrationError: no image came, or an activation or an answer is not finite.
    """
    image = model.graph.input[0].name
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "core.onnx"
        onnx.save(model, source)
        with quiet_tools():
            calibrator = create_calibrator(
                source,
                op_types_to_calibrate=None,
                augmented_model_path=str(Path(folder) / "augmented.onnx"),
                calibrate_method=METHODS[recipe.method],
            )
        network = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
        seen = 0
        for images in batches:
            feed = feed_of(model, images)
            which = f"for calibration images {seen + 1} to {seen + len(images)}"
            # The calibrators take a NaN for a small number.
            if not all(np.isfinite(output).all() for output in network.run(None, feed)):
                raise CalibrationError(
                    f"the network's answers {which} are not finite, so its activations have no range. Is a weight NaN "
                    "or far too large?"
                )
            with quiet_tools(), _in_our_words(which):
                calibrator.collect_data(_OneBatch(feed))
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
    return {**ranges, image: (0.0, 1.0)}


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
