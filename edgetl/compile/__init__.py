"""From a core graph to the artifact that an engine loads fastest: one file an engine."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from edgetl.compile.compiled import Compiled, ModelInfo
from edgetl.compile.face import feed_of
from edgetl.compile.for_onnxruntime import simplify_graph
from edgetl.compile.typed import in_float32
from edgetl.errors import TargetError

__all__ = ["COMPILERS", "Compiled", "ModelInfo", "compile_graph", "feed_of", "in_float32", "simplify_graph"]

# Engine name -> the module whose `compile_graph` serves it; imported when used.
COMPILERS = {
    "onnxruntime": "edgetl.compile.for_onnxruntime",
    "openvino": "edgetl.compile.for_openvino",
    "tensorrt": "edgetl.compile.for_tensorrt",
}


def compile_graph(graph: bytes, engine: str, info: ModelInfo | None = None) -> Compiled:
    """Return the artifact of a core graph for an engine, with a uint8 NHWC face.

    Args:
        graph: a serialized core graph: float32 `image` of shape (images, 3, height, width), quantized or not.
        engine: a name from `COMPILERS`.
        info: kept in the artifact by OpenVINO, whose programs then need nothing else.

    Raises:
        TargetError: the engine is not known here.
        MissingError: what compiling for it needs is not installed.
    """
    if engine not in COMPILERS:
        raise TargetError(f"engine {engine!r} cannot be compiled for here. Known: {', '.join(COMPILERS)}")
    compiler: Callable[..., Compiled] = import_module(COMPILERS[engine]).compile_graph
    return compiler(graph, info) if engine == "openvino" else compiler(graph)
