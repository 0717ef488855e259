"""Gives a core graph the uint8 face that OpenVINO runs fastest: its own PrePostProcessor, saved as IR.

OpenVINO folds the conversion of the photo's bytes, their layout and the division by 255 into its plugins' kernels; the
graph itself, quantized or not, stays as it was exported.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from edgetl.compile import Compiled
from edgetl.errors import ExportError, missing_library
from edgetl.records import ModelContent, TensorSpec

__all__ = ["compile_graph"]

STEM, SUFFIX, WEIGHTS_SUFFIX = "model", ".xml", ".bin"


def compile_graph(graph: bytes) -> Compiled:
    """Return the artifact of a core graph, OpenVINO IR: uint8 NHWC images in, float32 logits out.

    Raises:
        ExportError: OpenVINO cannot read the graph, or it has not the border of a core graph.
        MissingError: openvino is not installed.
    """
    try:
        import openvino
        from openvino.preprocess import PrePostProcessor
    except ImportError:
        raise missing_library("openvino", "openvino", "compile a graph for OpenVINO") from None
    try:
        model = openvino.Core().read_model(graph)
    except RuntimeError as error:
        raise ExportError(f"OpenVINO {openvino.__version__} cannot read the graph: {_first_line(error)}") from error
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ExportError(
            f"a core graph has one input and one output, found {len(model.inputs)} and {len(model.outputs)}"
        )
    name, output = model.input().any_name, model.output().any_name
    shape = _sizes(model.input().partial_shape)
    if len(shape) != 4 or shape[1] != 3:
        raise ExportError(f"a core graph reads (images, 3, height, width), found {shape}")
    facing = PrePostProcessor(model)
    face = facing.input()
    face.tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    face.preprocess().convert_element_type(openvino.Type.f32).scale(255.0)
    face.model().set_layout(openvino.Layout("NCHW"))
    model = facing.build()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{STEM}{SUFFIX}"
        openvino.save_model(model, path, compress_to_fp16=False)
        content = ModelContent(graph=path.read_bytes(), weights=path.with_suffix(WEIGHTS_SUFFIX).read_bytes())
    return Compiled(
        content=content,
        suffix=SUFFIX,
        weights_suffix=WEIGHTS_SUFFIX,
        input=TensorSpec(name=name, dtype="uint8", shape=(-1, *shape[2:], 3)),
        output=TensorSpec(name=output, dtype="float32", shape=_sizes(model.output().partial_shape)),
    )


def _sizes(shape: object) -> tuple[int, ...]:
    """Return a partial shape with -1 for what is free."""
    return tuple(size.get_length() if size.is_static else -1 for size in shape)  # type: ignore[attr-defined]


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
