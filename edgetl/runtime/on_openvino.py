"""Runs an artifact on OpenVINO: one infer request a thread, in the precision that the graph says."""

from __future__ import annotations

import threading
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np

from edgetl.bundle import Artifact
from edgetl.compile.openvino_core import the_core
from edgetl.compile.openvino_photos import take_images
from edgetl.errors import MissingError, SessionError
from edgetl.folders import cache_folder
from edgetl.records import Device, FloatArray, ImageArray, ModelContent
from edgetl.runtime.session import Port, check_border, check_images

__all__ = ["OpenVinoSession", "compile_model", "devices", "open_session"]

# Device -> OpenVINO's plugin.
PLUGINS: dict[Device, str] = {"cpu": "CPU", "gpu": "GPU", "npu": "NPU"}
DTYPES = {"u8": "uint8", "f32": "float32"}


def open_session(model: ModelContent, artifact: Artifact) -> OpenVinoSession:
    """Return a session on OpenVINO IR.

    Args:
        model: the graph (.xml) and its weights (.bin).
        artifact: its border, and the device, threads and hint to run it with; 0 threads leave the number to OpenVINO.

    Raises:
        MissingError: openvino is not installed, or has no such device here.
        SessionError: the graph cannot be loaded, or its border is not what the artifact says.
    """
    return OpenVinoSession(model, artifact)


def devices() -> tuple[Device, ...]:
    """Return the devices here that OpenVINO has a plugin for; none where it is not installed."""
    try:
        found = the_core("run this bundle").available_devices
    except MissingError:
        return ()
    # "GPU.0" and "GPU.1" where there are two.
    names = {each.partition(".")[0] for each in found}
    return tuple(device for device, plugin in PLUGINS.items() if plugin in names)


def compile_model(model: ModelContent, artifact: Artifact, images: int | None) -> Any:
    """Return OpenVINO's compiled model of an artifact, on its device, for so many images at once, or for any number;
    raises as `open_session` does."""
    core, device = the_core("run this bundle"), artifact.execution.device
    if device != "cpu" and device not in devices():
        raise MissingError(
            f"{artifact.path} is to run on OpenVINO's {device.upper()}, which is not here (here: "
            f"{', '.join(core.available_devices)}). Is its driver installed?"
        )
    try:
        graph = take_images(core.read_model(model.graph, model.weights or b""), artifact.input)
        reads, gives = ([_described(port) for port in side] for side in (graph.inputs, graph.outputs))
        check_border(artifact, reads, gives)
        if images:
            graph.reshape([images, *artifact.input.shape[1:]])
        return core.compile_model(graph, PLUGINS[device], _options(core, artifact))
    except SessionError:
        raise
    except Exception as error:  # OpenVINO raises RuntimeError and its own classes
        raise SessionError(f"{artifact.path}: OpenVINO refuses it: {error}") from error


class OpenVinoSession:
    """A session on one of OpenVINO's plugins; safe to call from several threads.

    One image is answered by a model that is compiled for one: seen on 2 cores, squeezenet1_1 takes 0.94 of the time of
    a model for any number, mobilenet_v2 0.8, with the same logits. Several at once are answered by such a model, which
    takes a third to three quarters of the time of one after the other; it is compiled when they first come, from the
    bytes that a session keeps for it. An NPU must know shapes beforehand, and has the first alone.
    """

    def __init__(self, model: ModelContent, artifact: Artifact) -> None:
        self.artifact = artifact
        self.degraded: str | None = None
        if artifact.precision == "bf16" and not _has_bfloat16(the_core("run this bundle")):
            self.degraded = "this CPU has no bfloat16, so that float32 answers"
        self._compiled: _Compiled | None = _Compiled(model, artifact)

    def run(self, images: ImageArray) -> FloatArray:
        """Return logits of shape (images, classes); see `Session.run`."""
        compiled = self._compiled
        if compiled is None:
            raise SessionError("this session is closed. Open another")
        check_images(images, self.artifact.input)
        whole, device = np.ascontiguousarray(images), self.artifact.execution.device
        step = 1 if device == "npu" else len(whole)
        request = compiled.request(1 if step == 1 else None)
        try:
            # `share_outputs` would give a view of the request's own memory, which the next call overwrites.
            parts = [
                request.infer([whole[start : start + step]], share_inputs=True)[0]
                for start in range(0, len(whole), step)
            ]
        except RuntimeError as error:
            raise SessionError(f"OpenVINO failed on {device}: {error}") from error
        logits: FloatArray = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return logits

    def close(self) -> None:
        """Give the engine's memory back."""
        self._compiled = None


class _Compiled:
    """The compiled models of an artifact, by how many images they take; None is any number."""

    def __init__(self, model: ModelContent, artifact: Artifact) -> None:
        self._compile = partial(compile_model, model, artifact)
        self._engines: dict[int | None, Any] = {1: self._compile(1)}
        self._compiling = threading.Lock()
        # An infer request serves one call at a time; those of one compiled model share its weights.
        self._requests = threading.local()

    def request(self, images: int | None) -> Any:
        """Return this thread's request for so many images; the model is compiled if it is not yet."""
        requests: dict[int | None, Any] = self._requests.__dict__.setdefault("by_images", {})
        if images not in requests:
            if images not in self._engines:
                with self._compiling:
                    if images not in self._engines:
                        self._engines[images] = self._compile(images)
            requests[images] = self._engines[images].create_infer_request()
        return requests[images]


def _options(core: Any, artifact: Artifact) -> dict[str, Any]:
    """Return how a plugin is to compile and run an artifact.

    The precision of what is left in float is said, since the CPU plugin's own choice is bfloat16 where the CPU has it,
    and parity was measured on float32; a CPU that has none computes a bfloat16 artifact in float32. An NPU has no
    float32; a GPU runs the rest of an INT8 graph faster in float16.
    """
    how = artifact.execution
    halved = how.device == "npu" or (how.device == "gpu" and artifact.precision != "fp32")
    plain = "bf16" if artifact.precision == "bf16" and _has_bfloat16(core) else "f32"
    options: dict[str, Any] = {
        "PERFORMANCE_HINT": how.hint.upper(),
        "INFERENCE_PRECISION_HINT": "f16" if halved else plain,
    }
    if how.device == "cpu":
        options["INFERENCE_NUM_THREADS"] = how.threads
    else:  # compiling for it takes seconds to minutes; for the CPU 50 ms
        with suppress(OSError):
            (cache_folder() / "openvino").mkdir(parents=True, exist_ok=True)
            options["CACHE_DIR"] = str(cache_folder() / "openvino")
    return options


def _has_bfloat16(core: Any) -> bool:
    """Say whether the CPU plugin computes in bfloat16 here."""
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _described(port: Any) -> Port:
    """Return a tensor at the graph's border as OpenVINO says it."""
    kind = port.element_type.get_type_name()
    sizes = tuple(size.get_length() if size.is_static else -1 for size in port.partial_shape)
    return port.any_name, DTYPES.get(kind, kind), sizes
