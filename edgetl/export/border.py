"""Gives a float graph the border of a core graph: pixel/255 in, logits out, normalisation folded into the weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from edgetl.errors import ExportError
from edgetl.records import Border, Preprocess

__all__ = [
    "BATCH",
    "INPUT",
    "OPSET",
    "OUTPUT",
    "CoreGraph",
    "Normalisation",
    "as_core",
    "bodies_of",
    "nodes_behind",
    "reads_of",
]

# What JetPack 6's TensorRT reads, and the first opset with float16 quantization scales.
OPSET = 19
INPUT, OUTPUT, BATCH = "image", "logits", "images"

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class CoreGraph:
    """The core graph, the preprocessing with the border that its first convolution asks for, and what exported it."""

    model: onnx.ModelProto
    preprocess: Preprocess
    exporter: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Normalisation:
    """What a graph expects of pixel/255: mean and std, each of red, green and blue, and whether it reads blue first."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    blue_first: bool = False


def as_core(
    model: onnx.ModelProto, how: Preprocess, normalisation: Normalisation, exporter: str, fold: bool = True
) -> CoreGraph:
    """Return the core graph of one that reads normalised planes named `image`, which is changed in place.

    Where the first layer is a convolution, mean and std are folded into it, and its zero padding becomes a border of
    the mean colour that the preprocessing paints: exact where the mean is whole 255ths. Else, and where `fold` is
    False, the graph begins with explicit arithmetic and there is no border.

    Args:
        model: reads float32 of shape (images, 3, side, side), gives (images, classes).
        how: the preprocessing of its photos, without border.
        normalisation: what the graph expects.
        exporter: what made it, in words.
        fold: try to fold.

    Raises:
        ExportError: the result is not valid ONNX.
    """
    _strip_notes(model)
    border = _normalise(model.graph, normalisation, fold)
    whole = how.model_copy(update={"border": border})
    _declare_border(model.graph, whole)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the {exporter} graph is not valid ONNX: {error}") from error
    return CoreGraph(model=model, preprocess=whole, exporter=exporter)


def nodes_behind(graph: onnx.GraphProto, tensor: str) -> list[onnx.NodeProto]:
    """Return copies of the nodes that a tensor is computed by, in the graph's order."""
    wanted, kept = {tensor}, []
    for node in reversed(graph.node):
        if not wanted.isdisjoint(node.output):
            wanted.update(reads_of(node))
            kept.append(onnx.NodeProto.FromString(node.SerializeToString()))
    return kept[::-1]


def bodies_of(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """Return the graphs within a node: the branches of an If, the body of a Loop."""
    return [body for attribute in node.attribute for body in (attribute.g, *attribute.graphs) if body.node]


def reads_of(node: onnx.NodeProto) -> set[str]:
    """Return the names of the tensors that a node reads, those among them that only graphs within it read."""
    return {*node.input, *(name for body in bodies_of(node) for inner in body.node for name in reads_of(inner))}


def _strip_notes(model: onnx.ModelProto) -> None:
    """Remove stack traces and paths of this machine, so that the same network gives the same file."""
    del model.metadata_props[:]
    model.doc_string = ""
    graph = model.graph
    graph.name, graph.doc_string = "edgetl", ""
    del graph.value_info[:], graph.metadata_props[:]
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]


def _normalise(graph: onnx.GraphProto, wanted: Normalisation, fold: bool) -> Border:
    mean, std = (np.array(each, dtype=np.float64) for each in (wanted.mean, wanted.std))
    readers = [node for node in graph.node if INPUT in node.input]
    if fold and len(readers) == 1 and readers[0].op_type == "Conv":
        border = _fold_into_convolution(graph, readers[0], mean, std, wanted.blue_first)
        if border is not None:
            return border
    _prepend_arithmetic(graph, mean, std, wanted.blue_first)
    return Border()


def _fold_into_convolution(
    graph: onnx.GraphProto, conv: onnx.NodeProto, mean: Doubles, std: Doubles, blue_first: bool
) -> Border | None:
    """Return the border that stands for the padding, after folding; None if this convolution cannot take it."""
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in conv.attribute}
    if conv.input[1] not in initializers or attributes.get("auto_pad", b"NOTSET") not in {b"NOTSET", b"VALID", b""}:
        return None
    if attributes.get("group", 1) != 1 or (len(conv.input) > 2 and conv.input[2] not in initializers):
        return None
    weight = numpy_helper.to_array(initializers[conv.input[1]]).astype(np.float64)
    if blue_first:
        weight = weight[:, ::-1]
    scaled = weight / std.reshape(1, 3, 1, 1)
    shift = -(scaled * mean.reshape(1, 3, 1, 1)).sum(axis=(1, 2, 3))
    if len(conv.input) > 2 and conv.input[2]:
        shift = shift + numpy_helper.to_array(initializers[conv.input[2]]).astype(np.float64)
    del conv.input[1:]
    for name, value in ((f"{INPUT}_weight", scaled), (f"{INPUT}_bias", shift)):
        graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
        conv.input.append(name)
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    for attribute in [a for a in conv.attribute if a.name in {"pads", "auto_pad"}]:
        conv.attribute.remove(attribute)
    _drop_unused(graph)
    return Border(top=top, left=left, bottom=bottom, right=right)


def _prepend_arithmetic(graph: onnx.GraphProto, mean: Doubles, std: Doubles, blue_first: bool) -> None:
    for node in graph.node:
        node.input[:] = ["normalised" if name == INPUT else name for name in node.input]
    for name, value in (("mean", mean), ("std", std)):
        graph.initializer.append(
            numpy_helper.from_array(value.astype(np.float32).reshape(1, 3, 1, 1), f"{INPUT}_{name}")
        )
    ends = "divided" if blue_first else "normalised"
    first = [
        helper.make_node("Sub", [INPUT, f"{INPUT}_mean"], ["centred"], name="subtract_mean"),
        helper.make_node("Div", ["centred", f"{INPUT}_std"], [ends], name="divide_by_std"),
    ]
    if blue_first:
        graph.initializer.append(numpy_helper.from_array(np.array([2, 1, 0]), "blue_first"))
        first.append(helper.make_node("Gather", [ends, "blue_first"], ["normalised"], name="to_blue_first", axis=1))
    for node in reversed(first):
        graph.node.insert(0, node)


def _drop_unused(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in reads_of(node)} | {output.name for output in graph.output}
    for tensor in [t for t in graph.initializer if t.name not in used]:
        graph.initializer.remove(tensor)


def _declare_border(graph: onnx.GraphProto, how: Preprocess) -> None:
    """State the tensors at the graph's border anew: the input has grown by the border, the batch is free."""
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info(INPUT, onnx.TensorProto.FLOAT, [BATCH, 3, how.height, how.width]))
    classes = graph.output[0].type.tensor_type.shape.dim[1].dim_value
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, [BATCH, classes]))
