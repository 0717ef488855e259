"""Runs a TensorRT plan: pinned buffers, one stream a session, a CUDA graph for shapes that come again."""

from __future__ import annotations

import ctypes
import threading
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from edgetl.bundle import Artifact
from edgetl.compile.for_tensorrt import load_tensorrt, make_log
from edgetl.errors import DeviceLostError, MissingError, SessionError
from edgetl.records import FloatArray, ImageArray, ModelContent
from edgetl.runtime.cudart import Cuda, open_cuda
from edgetl.runtime.plans import find_plan, plan_key
from edgetl.runtime.session import Port, check_border, check_images

__all__ = ["TensorRtSession", "open_session"]

# The first bytes of a plan in the standard runtime, before its version.
MAGIC, VERSION_AT = b"ftrt", 24


def open_session(model: ModelContent, artifact: Artifact) -> TensorRtSession:
    """Return a session on the plan that this device made of a typed graph.

    Args:
        model: the graph, which the plan is found by.
        artifact: its border, and the batch sizes that the plan takes.

    Raises:
        MissingError: TensorRT, a GPU or the plan is not here.
        SessionError: the plan cannot be loaded, or its border is not what the artifact says.
    """
    load_tensorrt()
    cuda = open_cuda()
    plan = find_plan(plan_key(model.graph, artifact, cuda))
    if plan is None:
        raise MissingError(
            f"{artifact.path}: this device has made no plan of it. `edgetl compile` makes one of the first that it can"
        )
    return TensorRtSession(plan, artifact, cuda)


class TensorRtSession:
    """A session on a plan; calls from several threads wait for each other, since a GPU runs them in turn anyway."""

    def __init__(self, plan: bytes, artifact: Artifact, cuda: Cuda) -> None:
        self.artifact = artifact
        self.degraded: str | None = None
        self._cuda = cuda
        self._lock = threading.Lock()
        self._batch = 0
        self._graph: Any = None
        self._seen = False
        self._capturable = True
        self._engine, self._context = _load(plan, artifact)
        # In the order in which they are given back, last first.
        self._held = ExitStack()
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        """Make the stream and the buffers, and tell the context of them."""
        cuda, artifact = self._cuda, self.artifact
        smallest, _, largest = self._engine.get_tensor_profile_shape(artifact.input.name, 0)
        self._smallest, self._largest = int(smallest[0]), int(largest[0])
        self._stream = cuda.make_stream()
        self._held.callback(cuda.end_stream, self._stream)
        self._input = _Buffer(cuda, self._held, (self._largest, *artifact.input.shape[1:]), np.uint8)
        self._output = _Buffer(cuda, self._held, (self._largest, artifact.output.shape[-1]), np.float32)
        self._held.callback(self._forget_graph)
        addresses = {artifact.input.name: self._input.device, artifact.output.name: self._output.device}
        try:
            good = self._context.set_optimization_profile_async(0, self._stream)
            good = good and all(self._context.set_tensor_address(each, address) for each, address in addresses.items())
        except RuntimeError as error:
            raise SessionError(f"{artifact.path}: TensorRT refuses its profile: {error}") from error
        cuda.synchronize(self._stream)
        if not good:
            raise SessionError(f"{artifact.path}: TensorRT refuses its buffers")

    def run(self, images: ImageArray) -> FloatArray:
        """Return logits of shape (images, classes); more images than the plan takes at once go in turns.

        Raises:
            DeviceLostError: the GPU does not answer.
            SessionError: as `Session.run` says.
        """
        with self._lock:
            if self._engine is None:
                raise SessionError("this session is closed. Open another")
            check_images(images, self.artifact.input)
            turns = range(0, len(images), self._largest)
            return np.concatenate([self._answer(images[start : start + self._largest]) for start in turns])

    def close(self) -> None:
        """Give the GPU's memory back, as far as it still answers."""
        with self._lock:
            if self._engine is None:
                return
            self._engine = self._context = None
            with suppress(DeviceLostError):  # what it held went with it
                self._held.close()

    def _answer(self, images: ImageArray) -> FloatArray:
        count = len(images)
        self._shape(max(count, self._smallest))
        self._input.host[:count] = images
        self._input.host[count : self._batch] = 0
        self._go()
        self._cuda.synchronize(self._stream)
        return self._output.host[:count].copy()

    def _shape(self, batch: int) -> None:
        if batch == self._batch:
            return
        self._forget_graph()
        shape = (batch, *self.artifact.input.shape[1:])
        try:
            good = self._context.set_input_shape(self.artifact.input.name, shape) and not self._context.infer_shapes()
        except RuntimeError:
            good = False
        if not good:
            raise SessionError(f"{self.artifact.path}: TensorRT refuses images of shape {shape}")
        self._batch, self._seen = batch, False

    def _go(self) -> None:
        """Put one inference on the stream: the first of a shape as it is, later ones of a usual shape as a graph."""
        usual = self._batch in self.artifact.execution.batch_sizes
        if self._graph is None and self._seen and self._capturable and usual:
            self._capture()
        if self._graph is not None:
            self._cuda.launch(self._graph, self._stream)
        else:
            self._enqueue()
            self._seen = True

    def _capture(self) -> None:
        """Record an inference of this shape; a network that cannot be recorded is run as it is from now on."""
        self._cuda.begin_capture(self._stream)
        try:
            self._enqueue()
        except SessionError:
            self._capturable = False
        try:
            graph = self._cuda.end_capture(self._stream)
        except SessionError:
            self._capturable = False
        else:
            self._graph = graph
            if not self._capturable:
                self._forget_graph()

    def _enqueue(self) -> None:
        self._cuda.copy_in(self._input.device, self._input.address, self._input.bytes_of(self._batch), self._stream)
        if not self._context.execute_async_v3(stream_handle=self._stream):
            raise DeviceLostError(f"{self.artifact.path}: TensorRT could not run it on the GPU")
        self._cuda.copy_out(self._output.address, self._output.device, self._output.bytes_of(self._batch), self._stream)

    def _forget_graph(self) -> None:
        if self._graph is not None:
            graph, self._graph = self._graph, None
            self._cuda.end_graph(graph)


class _Buffer:
    """A tensor's memory on the device, and pinned memory of the host that it is copied from or to."""

    def __init__(self, cuda: Cuda, held: ExitStack, shape: tuple[int, ...], dtype: type[np.uint8 | np.float32]) -> None:
        self._bytes_each = int(np.prod(shape[1:])) * np.dtype(dtype).itemsize
        size = self.bytes_of(shape[0])
        self.device = cuda.allocate(size)
        held.callback(cuda.free, self.device)
        self.address = cuda.allocate_pinned(size)
        held.callback(cuda.free_pinned, self.address)
        memory = (ctypes.c_ubyte * size).from_address(self.address)
        self.host: npt.NDArray[Any] = np.ctypeslib.as_array(memory).view(dtype).reshape(shape)

    def bytes_of(self, batch: int) -> int:
        """Return the bytes of so many images or answers."""
        return batch * self._bytes_each


def _load(plan: bytes, artifact: Artifact) -> tuple[Any, Any]:
    """Return the engine of a plan and a context to run it in.

    Raises:
        MissingError: TensorRT is not here.
        SessionError: it cannot be loaded, or its border is not what the artifact says.
    """
    trt = load_tensorrt()
    log = make_log(trt)
    _look_at_version(plan, trt.__version__, artifact)
    try:
        runtime = trt.Runtime(log)
    except TypeError as error:
        raise MissingError(f"TensorRT {trt.__version__} finds no GPU that it can use here: {log.last(error)}") from None
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise SessionError(f"{artifact.path}: TensorRT {trt.__version__} refuses its plan: {log.last()}")
    ports: dict[bool, list[Port]] = {True: [], False: []}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        kind = np.dtype(trt.nptype(engine.get_tensor_dtype(name))).name
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        ports[is_input].append((name, kind, tuple(engine.get_tensor_shape(name))))
    check_border(artifact, ports[True], ports[False])
    context = engine.create_execution_context()
    if context is None:
        raise SessionError(f"{artifact.path}: TensorRT {trt.__version__} cannot run its plan: {log.last()}")
    return engine, context


def _look_at_version(plan: bytes, version: str, artifact: Artifact) -> None:
    """Return if the plan's first bytes are of this TensorRT, or unlike any that are known.

    Raises:
        SessionError: another release made it.
    """
    if plan[:4] == MAGIC and plan[4:8] == b"\0\0\0\0" and len(plan) >= VERSION_AT + 4:
        made = tuple(plan[VERSION_AT : VERSION_AT + 3])
        here = tuple(int(part) for part in version.split(".")[:3])
        if made[: len(here)] != here:
            made_by = ".".join(map(str, made))
            raise SessionError(f"{artifact.path}: its plan was made by TensorRT {made_by}, this is {version}")
