"""Runs a core graph as it stands, which every engine's artifact is held against."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnxruntime

from edgetl.compile import feed_of
from edgetl.errors import ExportError
from edgetl.records import FloatArray, ImageArray

__all__ = ["CoreSession"]


class CoreSession:
    """A core graph, quantized or not, as ONNX defines it: no engine's face, and Q/DQ in float.

    Raises:
        ExportError: ONNX Runtime cannot read the graph; or, later, cannot run it.
    """

    def __init__(self, graph: bytes, tensors: Sequence[str] = ()) -> None:
        """Open a serialized core graph; `tensors` are names of what `values` is to give beside the logits."""
        self._model = onnx.load_from_string(graph)
        self._names = [self._model.graph.output[0].name, *tensors]
        self._model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self._names[1:])
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # ONNX Runtime's integer kernels round, and on CPUs without VNNI saturate, in ways of their own.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        try:
            self._engine = onnxruntime.InferenceSession(
                self._model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime raises its own unrelated classes
            raise ExportError(f"ONNX Runtime {onnxruntime.__version__} cannot read the graph: {error}") from error

    def run(self, images: ImageArray) -> FloatArray:
        """Return logits of shape (images, classes) for uint8 RGB images of shape (images, height, width, 3)."""
        logits: FloatArray = self._run(self._names[:1], images)[0]
        return logits

    def values(self, images: ImageArray) -> dict[str, FloatArray]:
        """Return the logits and every other tensor that was asked for, by name."""
        return dict(zip(self._names, self._run(self._names, images), strict=True))

    def _run(self, names: Sequence[str], images: ImageArray) -> list[FloatArray]:
        try:
            found: list[FloatArray] = self._engine.run(names, feed_of(self._model, images))
        except Exception as error:  # ONNX Runtime raises its own unrelated classes
            raise ExportError(f"ONNX Runtime {onnxruntime.__version__} cannot run the graph: {error}") from error
        return found
