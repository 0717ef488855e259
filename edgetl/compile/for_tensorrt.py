"""Gives a typed graph the uint8 face that TensorRT takes, and on the device makes a plan of it.

What TensorRT 10.3 to 11 have in common is used, and nothing else: a strongly typed network, whose precision is in the
graph, never in a builder flag.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from edgetl.compile.compiled import Compiled
from edgetl.compile.face import finish, read_core
from edgetl.compile.typed import check_typed
from edgetl.errors import ExportError, MissingError
from edgetl.records import Execution, Progress, TensorSpec

__all__ = [
    "HARDWARE_LEVEL",
    "OPTIMIZATION_LEVEL",
    "BuiltPlan",
    "build_plan",
    "compile_graph",
    "load_tensorrt",
    "make_log",
]

FLOATS, PLANES, SHARES, LEVELS = "image_floats", "image_planes", "image_shares", "image_levels"
# TensorRT's own default.
OPTIMIZATION_LEVEL = 3
# Others are not to be had on a Jetson.
HARDWARE_LEVEL = "NONE"
# Ctrl-C that comes just before a thread falls asleep is seen only when that wakes, so it does now and then.
WAKE_SECONDS = 0.5
# The first release with strongly typed networks as used here.
FIRST = (10, 3)


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltPlan:
    """A serialized engine, and what was learnt about this device's kernels while building it."""

    content: bytes
    timing_cache: bytes


def compile_graph(graph: bytes) -> Compiled:
    """Return the artifact of a typed core graph: uint8 NHWC images in, float32 logits out.

    TensorRT converts bytes to float32 at the network's border only, so the Cast comes first.

    Raises:
        ExportError: the graph has not the border of a core graph, or TensorRT would not take it as it is typed.
        MissingError: onnx is not installed.
    """
    core = read_core(graph, "compile a graph for TensorRT")
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    inner, name = core.model.graph, core.name
    for node in inner.node:
        node.input[:] = [SHARES if read == name else read for read in node.input]
    inner.initializer.append(numpy_helper.from_array(np.array(255, dtype=np.float32), LEVELS))
    face = [
        helper.make_node("Cast", [name], [FLOATS], name="to_floats", to=TensorProto.FLOAT),
        helper.make_node("Transpose", [FLOATS], [PLANES], name="to_planes", perm=[0, 3, 1, 2]),
        helper.make_node("Div", [PLANES, LEVELS], [SHARES], name="to_shares"),
    ]
    for place, node in enumerate(face):
        inner.node.insert(place, node)
    compiled = finish(core)
    check_typed(core.model)
    return compiled


def load_tensorrt() -> Any:
    """Return the tensorrt module of this device.

    Raises:
        MissingError: there is none, or one that is too old.
    """
    try:
        import tensorrt
    except ModuleNotFoundError:
        raise MissingError(
            "TensorRT is needed to run this bundle and is not installed on this machine. On a Jetson it comes with "
            "JetPack: sudo apt-get install python3-libnvinfer, and a venv sees it with --system-site-packages; on a PC "
            "with an NVIDIA GPU: pip install tensorrt"
        ) from None
    except (ImportError, OSError) as error:
        raise MissingError(f"TensorRT is installed and cannot be loaded: {error}") from error
    found = tuple(int(part) for part in tensorrt.__version__.split(".")[:2])
    if found < FIRST:
        raise MissingError(
            f"TensorRT {tensorrt.__version__} is too old: strongly typed networks as edgetl builds them need "
            f"{FIRST[0]}.{FIRST[1]}, which comes with JetPack 6.1"
        )
    return tensorrt


def build_plan(graph: bytes, border: TensorSpec, how: Execution, timing_cache: bytes, progress: Progress) -> BuiltPlan:
    """Return the plan of a typed graph for this device; takes minutes.

    Args:
        graph: the serialized ONNX graph.
        border: its input.
        how: the batch sizes that the plan must take, and the memory that building it may use.
        timing_cache: what an earlier build learnt; empty, or one that does not fit, starts anew.
        progress: shows the builder's phases.

    Raises:
        ExportError: TensorRT cannot build it; its own words are given.
        MissingError: TensorRT or the GPU is not here.
    """
    trt = load_tensorrt()
    log = make_log(trt)
    try:
        builder = trt.Builder(log)
    except TypeError as error:
        raise MissingError(f"TensorRT {trt.__version__} finds no GPU that it can use here: {log.last(error)}") from None
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(graph):
        errors = [str(parser.get_error(index)) for index in range(parser.num_errors)]
        raise ExportError(f"TensorRT {trt.__version__} cannot read the graph: {'; '.join(errors) or log.last()}")
    config = builder.create_builder_config()
    if how.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, how.workspace_bytes)
    config.builder_optimization_level = OPTIMIZATION_LEVEL
    config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, HARDWARE_LEVEL)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    profile = builder.create_optimization_profile()
    profile.set_shape(border.name, *((size, *border.shape[1:]) for size in how.batch_profile))
    if config.add_optimization_profile(profile) < 0:
        raise ExportError(f"TensorRT {trt.__version__} refuses the batch sizes {how.batch_sizes}: {log.last()}")
    if not config.set_timing_cache(config.create_timing_cache(timing_cache), ignore_mismatch=False):
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    # From a thread of its own, so that Ctrl-C reaches this one, and cancels before the bars close.
    with ThreadPoolExecutor(1) as pool, ExitStack() as bars:
        monitor = config.progress_monitor = _monitor(trt, progress, bars)
        with ExitStack() as ending:
            ending.callback(monitor.cancel)
            build = pool.submit(builder.build_serialized_network, network, config)
            while wait([build], WAKE_SECONDS).not_done:
                pass
            plan = build.result()
    if plan is None:
        raise ExportError(f"TensorRT {trt.__version__} cannot build the graph: {log.last()}")
    return BuiltPlan(content=bytes(plan), timing_cache=bytes(config.get_timing_cache().serialize()))


def make_log(trt: Any) -> Any:
    """Return a logger that keeps what TensorRT complains of; its `last` says the latest."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in {trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR}:
                self.lines.append(msg)

        def last(self, otherwise: object = "it does not say why") -> str:
            return "; ".join(self.lines[-3:]) or str(otherwise)

    return Log()


def _monitor(trt: Any, progress: Progress, stack: ExitStack) -> Any:
    """Return a monitor that shows the builder's outermost phases; the builder calls it from several threads."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._lock = threading.Lock()
            self._advance: dict[str, Callable[[int], None]] = {}
            self._open: dict[str, ExitStack] = {}
            self._cancelled = False

        def cancel(self) -> None:
            with self._lock:
                self._cancelled = True

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._lock:
                # One bar at a time, and none after the end: what shows them minds.
                if parent_phase is None and not self._open and not self._cancelled:
                    bar = self._open[phase_name] = stack.enter_context(ExitStack())
                    self._advance[phase_name] = bar.enter_context(progress.count(phase_name, num_steps))

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self._lock:
                if phase_name in self._advance:
                    self._advance[phase_name](1)
            return not self._cancelled

        def phase_finish(self, phase_name: str) -> None:
            with self._lock:
                if phase_name in self._open:
                    self._advance.pop(phase_name)
                    self._open.pop(phase_name).close()

    return Monitor()
