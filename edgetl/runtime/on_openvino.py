"""Runs an artifact on OpenVINO: one infer request a thread, in the precision that the graph says."""

from __future__ import annotations

import threading
from functools import cache
from typing import Any

import numpy as np

from edgetl.bundle import Artifact
from edgetl.errors import SessionError, missing_library
from edgetl.records import FloatArray, ImageArray, ModelContent
from edgetl.runtime.session import Port, check_border, check_images

__all__ = ["OpenVinoSession", "open_session"]

DEVICE = "CPU"
DTYPES = {"u8": "uint8", "f32": "float32"}


def open_session(model: ModelContent, artifact: Artifact, threads: int) -> OpenVinoSession:
    """Return a session on OpenVINO IR.

    Args:
        model: the graph (.xml) and its weights (.bin).
        artifact: its border.
        threads: inference threads; 0 leaves the number to OpenVINO.

    Raises:
        MissingError: openvino is not installed.
        SessionError: the graph cannot be loaded, or its border is not what the artifact says.
    """
    return OpenVinoSession(model, artifact, threads)


@cache
def _core() -> Any:
    """Return the one Core of this process.

    Each Core's CPU plugin puts a signal stack of its own on the thread, and the last of two to go leaves that of the
    first, which is freed: the next signal then kills the process (seen with 2026.4: a child that ended did).
    """
    try:
        import openvino
    except ImportError:
        raise missing_library("openvino", "openvino", "run this bundle") from None
    return openvino.Core()


class OpenVinoSession:
    """A session on OpenVINO's CPU plugin; safe to call from several threads."""

    def __init__(self, model: ModelContent, artifact: Artifact, threads: int) -> None:
        core = _core()
        # Said, since the plugin's own choice is bfloat16 where the CPU has it, and parity was measured on float32.
        options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        if threads:
            options["INFERENCE_NUM_THREADS"] = threads
        try:
            self._engine: Any = core.compile_model(core.read_model(model.graph, model.weights or b""), DEVICE, options)
        except Exception as error:  # OpenVINO raises RuntimeError and its own classes
            raise SessionError(f"{artifact.path}: OpenVINO refuses it: {error}") from error
        reads, gives = self._engine.inputs, self._engine.outputs
        check_border(artifact, [_described(one) for one in reads], [_described(one) for one in gives])
        self.input = artifact.input
        self.output = artifact.output
        # An infer request serves one call at a time; those of a session share the weights.
        self._requests = threading.local()

    def run(self, images: ImageArray) -> FloatArray:
        """Return logits of shape (images, classes); see `Session.run`."""
        engine = self._engine
        if engine is None:
            raise SessionError("this session is closed. Open another")
        check_images(images, self.input)
        request = getattr(self._requests, "one", None)
        if request is None:
            request = self._requests.one = engine.create_infer_request()
        # `share_outputs` would give a view of the request's own memory, which the next call overwrites.
        logits: FloatArray = request.infer([np.ascontiguousarray(images)], share_inputs=True)[0]
        return logits

    def close(self) -> None:
        """Give the engine's memory back; requests of threads that live on end with them."""
        self._engine = None
        self._requests = threading.local()


def _described(port: Any) -> Port:
    """Return a tensor at the graph's border as OpenVINO says it."""
    kind = port.element_type.get_type_name()
    sizes = tuple(size.get_length() if size.is_static else -1 for size in port.partial_shape)
    return port.any_name, DTYPES.get(kind, kind), sizes
