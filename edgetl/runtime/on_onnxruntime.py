"""Runs an artifact on ONNX Runtime; any onnxruntime distribution serves."""

from __future__ import annotations

from edgetl.bundle import Artifact
from edgetl.errors import SessionError, missing_library
from edgetl.records import FloatArray, ImageArray
from edgetl.runtime.session import check_images

__all__ = ["OnnxRuntimeSession", "open_session"]

PROVIDERS = ["CPUExecutionProvider"]


def open_session(model: bytes, artifact: Artifact, threads: int) -> OnnxRuntimeSession:
    """Return a session on an ONNX graph.

    Args:
        model: the serialized graph.
        artifact: its border.
        threads: intra-op threads; 0 means one a core.

    Raises:
        MissingError: onnxruntime is not installed.
        SessionError: the graph cannot be loaded, or its border is not what the artifact says.
    """
    return OnnxRuntimeSession(model, artifact, threads)


class OnnxRuntimeSession:
    """A session on ONNX Runtime's CPU provider; safe to call from several threads."""

    def __init__(self, model: bytes, artifact: Artifact, threads: int) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise missing_library("onnxruntime", "ort", "run this bundle") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._engine = onnxruntime.InferenceSession(model, options, providers=PROVIDERS)
        except Exception as error:  # ONNX Runtime raises its own unrelated classes
            raise SessionError(
                f"{artifact.path}: ONNX Runtime {onnxruntime.__version__} refuses it: {error}"
            ) from error
        inputs = [tensor.name for tensor in self._engine.get_inputs()]
        outputs = [tensor.name for tensor in self._engine.get_outputs()]
        if inputs != [artifact.input.name] or outputs != [artifact.output.name]:
            self._engine = None
            raise SessionError(
                f"{artifact.path}: has inputs {inputs} and outputs {outputs}, "
                f"the manifest says {artifact.input.name!r} and {artifact.output.name!r}"
            )
        self.input = artifact.input
        self.output = artifact.output
        self._outputs = outputs

    def run(self, images: ImageArray) -> FloatArray:
        """Return logits of shape (images, classes); see `Session.run`."""
        engine = self._engine
        if engine is None:
            raise SessionError("this session is closed. Open another")
        check_images(images, self.input)
        logits: FloatArray = engine.run(self._outputs, {self.input.name: images})[0]
        return logits

    def close(self) -> None:
        """Give the engine's memory back."""
        self._engine = None
