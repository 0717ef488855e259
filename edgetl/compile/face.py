"""The border of a core graph, and the uint8 face that takes its input's place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgetl.compile.compiled import Compiled
from edgetl.errors import ExportError, missing_library
from edgetl.records import FloatArray, ImageArray, ModelContent, TensorSpec

if TYPE_CHECKING:
    import onnx

__all__ = ["Core", "feed_of", "finish", "read_core"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Core:
    """A core graph, its input's name, and the height and width of its images."""

    model: onnx.ModelProto
    name: str
    height: int
    width: int


def read_core(graph: bytes, purpose: str) -> Core:
    """Return a core graph that was serialized: float32 `image` of shape (images, 3, height, width) in, logits out.

    Args:
        graph: the serialized graph.
        purpose: what it is read for, said where onnx is missing.

    Raises:
        ExportError: the graph has not the border of a core graph.
        MissingError: onnx is not installed.
    """
    try:
        import onnx
    except ImportError:
        raise missing_library("onnx", "train", purpose) from None
    model = onnx.load_from_string(graph)
    reads, gives = model.graph.input, model.graph.output
    if len(reads) != 1 or len(gives) != 1:
        raise ExportError(f"a core graph has one input and one output, found {len(reads)} and {len(gives)}")
    shape = [dim.dim_value or -1 for dim in reads[0].type.tensor_type.shape.dim]
    if len(shape) != 4 or shape[1] != 3:
        raise ExportError(f"a core graph reads (images, 3, height, width), found {shape}")
    return Core(model=model, name=reads[0].name, height=shape[2], width=shape[3])


def feed_of(model: onnx.ModelProto, images: ImageArray) -> dict[str, FloatArray]:
    """Return what a core graph that has no face reads of images, uint8 of shape (images, height, width, 3)."""
    planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).astype(np.float32) / np.float32(255)
    return {model.graph.input[0].name: planes}


def finish(core: Core) -> Compiled:
    """Return the artifact of a core graph whose nodes read uint8 images of shape (images, height, width, 3) by now.

    Raises:
        ExportError: it is not valid ONNX.
    """
    import onnx

    inner = core.model.graph
    face = TensorSpec(name=core.name, dtype="uint8", shape=(-1, core.height, core.width, 3))
    del inner.input[:], inner.value_info[:]
    inner.input.append(
        onnx.helper.make_tensor_value_info(core.name, onnx.TensorProto.UINT8, ["images", *face.shape[1:]])
    )
    try:
        onnx.checker.check_model(core.model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"with its uint8 face the graph is not valid ONNX: {error}") from error
    classes = inner.output[0].type.tensor_type.shape.dim[1].dim_value
    return Compiled(
        content=ModelContent(graph=core.model.SerializeToString(deterministic=True)),
        suffix=".onnx",
        input=face,
        output=TensorSpec(name=inner.output[0].name, dtype="float32", shape=(-1, classes)),
    )
