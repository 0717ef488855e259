"""The part of the CUDA runtime that a session needs, through NVIDIA's bindings or, where these do not fit, itself."""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from edgetl.errors import DeviceLostError, MissingError, SessionError

__all__ = ["Cuda", "CudaDevice", "open_cuda"]

PLACES = ("/usr/local/cuda/lib64/libcudart.so*", "/usr/local/cuda/targets/*/lib/libcudart.so*")
# What each function takes, in C's order: p a pointer, z a size, i an int, u unsigned, l unsigned long long; in capitals
# what it gives back through a pointer.
SIGNATURES = {
    "cudaDeviceGetAttribute": "Iii",
    "cudaDriverGetVersion": "I",
    "cudaFree": "p",
    "cudaFreeHost": "p",
    "cudaGraphDestroy": "p",
    "cudaGraphExecDestroy": "p",
    "cudaGraphInstantiate": "Ppl",
    "cudaGraphLaunch": "pp",
    "cudaMalloc": "Pz",
    "cudaMallocHost": "Pz",
    "cudaMemcpyAsync": "ppzip",
    "cudaRuntimeGetVersion": "I",
    "cudaStreamBeginCapture": "pi",
    "cudaStreamCreateWithFlags": "Pu",
    "cudaStreamDestroy": "p",
    "cudaStreamEndCapture": "pP",
    "cudaStreamSynchronize": "p",
}
TYPES: dict[str, Any] = {
    "p": ctypes.c_void_p, "z": ctypes.c_size_t, "i": ctypes.c_int, "u": ctypes.c_uint, "l": ctypes.c_ulonglong,
}  # fmt: skip
OUT_OF_MEMORY = 2
# What the commonest of CUDA's errors come from (CUDA Runtime API, cudaError_t).
MEANINGS = {
    35: "the driver is not there, or older than this CUDA runtime",
    46: "another process holds the GPU",
    100: "no GPU is there",
    999: "unknown; often the driver was updated and the machine not restarted",
}
# The struct of device properties begins with the name; it has never been larger than this.
NAME_BYTES, PROPERTIES_BYTES = 256, 8192


@dataclass(frozen=True, kw_only=True, slots=True)
class Constant:
    """A constant of the runtime: where the bindings keep it, and its value in C."""

    kind: str | None
    name: str
    value: int


TO_DEVICE = Constant(kind="cudaMemcpyKind", name="cudaMemcpyHostToDevice", value=1)
TO_HOST = Constant(kind="cudaMemcpyKind", name="cudaMemcpyDeviceToHost", value=2)
NON_BLOCKING = Constant(kind=None, name="cudaStreamNonBlocking", value=1)
THREAD_LOCAL = Constant(kind="cudaStreamCaptureMode", name="cudaStreamCaptureModeThreadLocal", value=1)
MAJOR = Constant(kind="cudaDeviceAttr", name="cudaDevAttrComputeCapabilityMajor", value=75)
MINOR = Constant(kind="cudaDeviceAttr", name="cudaDevAttrComputeCapabilityMinor", value=76)
PROCESSORS = Constant(kind="cudaDeviceAttr", name="cudaDevAttrMultiProcessorCount", value=16)


@dataclass(frozen=True, kw_only=True, slots=True)
class CudaDevice:
    """The GPU and what drives it."""

    name: str
    compute_capability: str
    processors: int
    runtime_version: int
    driver_version: int


class Bindings:
    """Calls through `cuda.bindings.runtime`, whose functions return a tuple of status and results."""

    def __init__(self, module: ModuleType) -> None:
        self._module: Any = module

    def call(self, function: str, *arguments: Any) -> tuple[int, tuple[Any, ...]]:
        """Return the status and what the function gives."""
        given = [self._constant(each) if isinstance(each, Constant) else each for each in arguments]
        status, *results = getattr(self._module, function)(*given)
        return int(status), tuple(results)

    def device_name(self) -> str:
        """Return the name of device 0."""
        _, (properties,) = self.call("cudaGetDeviceProperties", 0)
        return bytes(properties.name).rstrip(b"\0").decode()

    def _constant(self, constant: Constant) -> Any:
        return getattr(getattr(self._module, constant.kind) if constant.kind else self._module, constant.name)


class Library:
    """Calls into libcudart itself."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def call(self, function: str, *arguments: Any) -> tuple[int, tuple[Any, ...]]:
        """Return the status and what the function gives."""
        given, results = [], []
        waiting = iter(arguments)
        for letter in SIGNATURES[function]:
            kind = TYPES[letter.lower()]
            if letter.isupper():
                results.append(kind())
                given.append(ctypes.byref(results[-1]))
            else:
                value = next(waiting)
                given.append(kind(value.value if isinstance(value, Constant) else int(value)))
        status = int(getattr(self._library, function)(*given))
        return status, tuple(each.value for each in results)

    def device_name(self) -> str:
        """Return the name of device 0."""
        buffer = ctypes.create_string_buffer(PROPERTIES_BYTES)
        newest = getattr(self._library, "cudaGetDeviceProperties_v2", None)
        (newest or self._library.cudaGetDeviceProperties)(buffer, 0)
        return buffer.raw[:NAME_BYTES].partition(b"\0")[0].decode()


class Cuda:
    """Streams, memory and graphs of device 0; pointers and handles are ints, or what the bindings make of them."""

    def __init__(self, calls: Bindings | Library) -> None:
        self._calls = calls

    def device(self) -> CudaDevice:
        """Return what this device is."""
        major, minor, processors = (self._one("cudaDeviceGetAttribute", each, 0) for each in (MAJOR, MINOR, PROCESSORS))
        return CudaDevice(
            name=self._calls.device_name(),
            compute_capability=f"{major}.{minor}",
            processors=int(processors),
            runtime_version=int(self._one("cudaRuntimeGetVersion")),
            driver_version=int(self._one("cudaDriverGetVersion")),
        )

    def make_stream(self) -> int:
        """Return a stream that does not wait for the default one."""
        return int(self._one("cudaStreamCreateWithFlags", NON_BLOCKING))

    def synchronize(self, stream: int) -> None:
        """Wait until all that was put on the stream is done."""
        self._do("cudaStreamSynchronize", stream)

    def end_stream(self, stream: int) -> None:
        """Give a stream back."""
        self._do("cudaStreamDestroy", stream)

    def allocate(self, size: int) -> int:
        """Return the address of device memory, which the runtime aligns to 256 bytes."""
        return int(self._one("cudaMalloc", size))

    def free(self, address: int) -> None:
        """Give device memory back."""
        self._do("cudaFree", address)

    def allocate_pinned(self, size: int) -> int:
        """Return the address of host memory that the device copies from without the CPU's help."""
        return int(self._one("cudaMallocHost", size))

    def free_pinned(self, address: int) -> None:
        """Give pinned memory back."""
        self._do("cudaFreeHost", address)

    def copy_in(self, device: int, host: int, size: int, stream: int) -> None:
        """Put a copy of `size` bytes to the device on the stream."""
        self._do("cudaMemcpyAsync", device, host, size, TO_DEVICE, stream)

    def copy_out(self, host: int, device: int, size: int, stream: int) -> None:
        """Put a copy of `size` bytes from the device on the stream."""
        self._do("cudaMemcpyAsync", host, device, size, TO_HOST, stream)

    def begin_capture(self, stream: int) -> None:
        """Record what is put on the stream from now on, instead of doing it."""
        self._do("cudaStreamBeginCapture", stream, THREAD_LOCAL)

    def end_capture(self, stream: int) -> Any:
        """Return what was recorded, ready to be launched."""
        graph = self._one("cudaStreamEndCapture", stream)
        try:
            return self._one("cudaGraphInstantiate", graph, 0)
        finally:
            self._do("cudaGraphDestroy", graph)

    def launch(self, graph: Any, stream: int) -> None:
        """Put a recording on the stream."""
        self._do("cudaGraphLaunch", graph, stream)

    def end_graph(self, graph: Any) -> None:
        """Give a recording back."""
        self._do("cudaGraphExecDestroy", graph)

    def _one(self, function: str, *arguments: Any) -> Any:
        return self._do(function, *arguments)[0]

    def _do(self, function: str, *arguments: Any) -> tuple[Any, ...]:
        """Return what a function gives.

        Raises:
            DeviceLostError: its status is not 0.
            SessionError: the GPU's memory is full.
        """
        status, results = self._calls.call(function, *arguments)
        if status == OUT_OF_MEMORY:
            raise SessionError(f"the GPU has no memory left for this: {function} gives CUDA error {status}")
        if status:
            means = f" ({MEANINGS[status]})" if status in MEANINGS else ""
            raise DeviceLostError(f"the GPU does not answer: {function} gives CUDA error {status}{means}")
        return results


def open_cuda() -> Cuda:
    """Return the CUDA runtime of this device.

    Raises:
        MissingError: there is none, or no GPU that it can use.
    """
    failures = []
    for calls in _ways():
        cuda = Cuda(calls)
        try:
            cuda.device()
        except DeviceLostError as error:
            failures.append(f"{type(calls).__name__.lower()}: {error}")
        else:
            return cuda
    raise MissingError(
        f"no GPU can be used here ({'; '.join(dict.fromkeys(failures)) or 'no CUDA runtime is installed'}). "
        "Is the driver there? The bindings: pip install 'edgetl[tensorrt]'"
    )


def _ways() -> Iterator[Bindings | Library]:
    try:
        from cuda.bindings import runtime
    except ImportError:
        pass
    else:
        yield Bindings(runtime)
    found = [str(path) for place in PLACES for path in sorted(Path("/").glob(place.lstrip("/")))]
    for name in [*found, ctypes.util.find_library("cudart")]:
        if name:
            try:
                yield Library(ctypes.CDLL(name))
            except (OSError, AttributeError):
                continue
