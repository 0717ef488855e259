"""Gives a core graph the uint8 face that OpenVINO runs fastest: its own PrePostProcessor, saved as IR.

OpenVINO folds the conversion of the photo's bytes, their layout and the division by 255 into its plugins' kernels; the
graph itself, quantized or not, stays as it was exported. `openvino_photos` lets it begin one step before, at the photo.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from edgetl.compile.compiled import Compiled, ModelInfo
from edgetl.compile.openvino_core import the_core
from edgetl.compile.openvino_photos import take_photos
from edgetl.errors import ExportError, missing_library
from edgetl.records import ModelContent, TensorSpec

__all__ = ["compile_graph"]

STEM, SUFFIX, WEIGHTS_SUFFIX = "model", ".xml", ".bin"


def compile_graph(graph: bytes, info: ModelInfo | None = None) -> Compiled:
    """Return the artifact of a core graph, OpenVINO IR: uint8 NHWC images in, float32 logits out.

    Args:
        graph: a serialized core graph: float32 `image` of shape (images, 3, height, width), quantized or not.
        info: where given, the IR's own input is `photo`, uint8 BGR of shape (photos, height, width, 3) and of any size,
            and the artifact's input is a tensor within, which `openvino_photos.take_images` makes the input.

    Raises:
        ExportError: OpenVINO cannot read the graph, it has not the border of a core graph, or the info is of another.
        MissingError: openvino is not installed.
    """
    try:
        import openvino

        # Private by name, but the only way to them; OpenVINO's converter `ovc` takes them from here too.
        from openvino._offline_transformations import (
            apply_moc_transformations,
            compress_quantize_weights_transformation,
        )
        from openvino.preprocess import PrePostProcessor
    except ImportError:
        raise missing_library("openvino", "openvino", "compile a graph for OpenVINO") from None
    try:
        model = the_core("compile a graph for OpenVINO").read_model(graph)
    except Exception as error:  # RuntimeError, and its frontends' own classes
        raise ExportError(f"OpenVINO {openvino.__version__} cannot read the graph: {_reason(error)}") from error
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
    # How `ovc` ends. As read from ONNX, an INT8 graph keeps its weights in int8, but computes the shape of every scale
    # in nodes of its own: without this the .xml of a small network outgrows what the .bin saves.
    apply_moc_transformations(model, cf=False, smart_reshape=True)
    compress_quantize_weights_transformation(model)
    reads = TensorSpec(name=name, dtype="uint8", shape=(-1, *shape[2:], 3))
    gives = TensorSpec(name=output, dtype="float32", shape=_sizes(model.output().partial_shape))
    if info is not None:
        # Last, so that no transformation moves the turn from BGR to RGB behind the image.
        take_photos(model, info, reads, gives)
    return Compiled(content=_save(model), suffix=SUFFIX, weights_suffix=WEIGHTS_SUFFIX, input=reads, output=gives)


def _save(model: Any) -> ModelContent:
    import openvino

    # OpenVINO numbers nodes that have no name by all that this process has made, so the same graph would differ.
    for number, node in enumerate(model.get_ordered_ops()):
        if named := re.fullmatch(r"(.*/)?([A-Z]\w*)_\d+", node.get_friendly_name()):
            node.set_friendly_name(f"{named[1] or ''}{named[2]}_{number}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{STEM}{SUFFIX}"
        openvino.save_model(model, path, compress_to_fp16=False)
        return ModelContent(graph=path.read_bytes(), weights=path.with_suffix(WEIGHTS_SUFFIX).read_bytes())


def _sizes(shape: object) -> tuple[int, ...]:
    """Return a partial shape with -1 for what is free."""
    return tuple(size.get_length() if size.is_static else -1 for size in shape)  # type: ignore[attr-defined]


def _reason(error: Exception) -> str:
    """Return what OpenVINO's message says, without where in its sources it was raised and where to read more."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    around = ("Exception from", "Check '", "Summary:", "To facilitate")
    return "; ".join(line for line in lines if not line.startswith(around)) or type(error).__name__
