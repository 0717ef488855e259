"""Makes a core graph of a classifier that was trained elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, inliner, numpy_helper, version_converter

from edgetl.compile import simplify_graph
from edgetl.errors import ExportError, first_line
from edgetl.export.border import BATCH, INPUT, OPSET, OUTPUT, CoreGraph, Normalisation, as_core, bodies_of, nodes_behind
from edgetl.export.foreign import ForeignGraph

__all__ = ["WAYS", "Way", "adopt_graph"]

Way = Literal["folded", "explicit"]
# In order of preference; parity decides. Where the first convolution pads with zeros, folding is exact only for a mean
# of whole 255ths.
WAYS: tuple[Way, ...] = ("folded", "explicit")
# How the names begin that edgetl gives to tensors, here and in compiling, and what such names of the file's get.
OURS = (INPUT, OUTPUT, "centred", "divided", "normalised", "blue_first")
OWN = "own_"


def adopt_graph(foreign: ForeignGraph, way: Way) -> CoreGraph:
    """Return the core graph of a classifier trained elsewhere.

    It reads planes of RGB whatever the file reads, takes any number of images, gives logits, and has its constants and
    BatchNorms folded away.

    Args:
        foreign: as read from its file; it stays as it is.
        way: "folded" puts the normalisation into the first convolution's weights where it can; "explicit" computes it.

    Raises:
        ExportError: the graph cannot be converted to the opset that edgetl writes, or cannot be simplified.
    """
    model = onnx.ModelProto.FromString(foreign.model.SerializeToString())
    model = _in_opset(model)
    _end_at(model.graph, foreign.logits)
    _free_batch(model.graph)
    _rename_border(model.graph, foreign)
    simple = onnx.load_from_string(simplify_graph(model.SerializeToString()))
    _name_nodes(simple.graph)
    wanted = Normalisation(mean=foreign.mean, std=foreign.std, blue_first=foreign.channels == "bgr")
    return as_core(simple, foreign.preprocess, wanted, f"{way} {foreign.name}", fold=way == "folded")


def _in_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    found = next((each.version for each in model.opset_import if each.domain in {"", "ai.onnx"}), OPSET)
    if found == OPSET:
        return model
    try:
        if found > OPSET:
            # What is newer than that is written in older operators; the converter cannot.
            newer = _newer_operators(model.graph)
            model = inliner.inline_selected_functions(model, newer, inline_schema_functions=True) if newer else model
        return version_converter.convert_version(model, OPSET)
    except Exception as error:  # onnx raises RuntimeError and classes of its own
        raise ExportError(
            f"its opset {found} cannot be converted to {OPSET}: {first_line(error)}. Export it with opset {OPSET}"
        ) from error


def _newer_operators(graph: onnx.GraphProto) -> list[tuple[str, str]]:
    """Return the domain and name of each operator of ONNX's in a graph that came after the opset that edgetl writes."""
    first: dict[str, int] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if not schema.domain:
            first[schema.name] = min(schema.since_version, first.get(schema.name, schema.since_version))
    return sorted({("", node.op_type) for node in graph.node if first.get(node.op_type, 0) > OPSET})


def _end_at(graph: onnx.GraphProto, tensor: str) -> None:
    """Let the graph give another of its tensors, and do nothing beyond."""
    graph.output[0].name = tensor
    kept = nodes_behind(graph, tensor)
    del graph.node[:]
    graph.node.extend(kept)


def _free_batch(graph: onnx.GraphProto) -> None:
    """Let what is said within of a fixed number of images hold for any."""
    fixed = graph.input[0].type.tensor_type.shape.dim[0].dim_value
    del graph.value_info[:]
    if not fixed:
        return
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    constants |= {node.output[0]: _value_of(node) for node in graph.node if node.op_type == "Constant"}
    for number, node in enumerate(each for each in graph.node if each.op_type == "Reshape"):
        shape = constants.get(node.input[1])
        if node.input[0] in constants or shape is None or not shape.size or shape[0] != fixed:
            continue
        # 0 stands for as many as come, unless it is allowed to stand for itself.
        free = numpy_helper.from_array(np.array([0, *shape[1:]], dtype=np.int64), f"{OWN}shape_{number}")
        graph.initializer.append(free)
        node.input[1] = free.name
        for attribute in [each for each in node.attribute if each.name == "allowzero"]:
            node.attribute.remove(attribute)


def _value_of(constant: onnx.NodeProto) -> npt.NDArray[Any]:
    """Return what a Constant node gives; nothing for what is no number."""
    said = constant.attribute[0]
    if said.name == "value":
        return numpy_helper.to_array(said.t)
    if said.name in {"value_int", "value_ints", "value_float", "value_floats"}:
        return np.atleast_1d(np.array(helper.get_attribute_value(said)))
    return np.empty(0)


def _rename_border(graph: onnx.GraphProto, foreign: ForeignGraph) -> None:
    """Name what comes in and goes out as core graphs do, and let planes come in and one row a photo go out."""
    entry, gives = graph.input[0], graph.output[0]
    old, given = entry.name, gives.name

    def apart(name: str) -> str:
        return f"{OWN}{name}" if name.startswith(OURS) and name not in {old, given} else name

    first = f"{OWN}rows" if foreign.rows else INPUT
    last = f"{OWN}places" if foreign.places else OUTPUT
    _rename(graph, lambda name: {old: first, given: last}.get(name) or apart(name))
    if foreign.rows:
        graph.node.insert(0, helper.make_node("Transpose", [INPUT], [first], name="to_rows", perm=[0, 2, 3, 1]))
    if foreign.places:
        graph.node.append(helper.make_node("Flatten", [last], [OUTPUT], name="to_logits", axis=1))
    image: list[str | int | None] = [BATCH, 3, foreign.side, foreign.side]
    entry.CopyFrom(helper.make_tensor_value_info(INPUT, onnx.TensorProto.FLOAT, image))
    gives.CopyFrom(helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, [BATCH, foreign.classes]))


def _rename(graph: onnx.GraphProto, called: Callable[[str], str]) -> None:
    """Give every tensor of a graph, and of graphs within it, another name."""
    for node in graph.node:
        node.input[:] = map(called, node.input)
        node.output[:] = map(called, node.output)
        for body in bodies_of(node):
            _rename(body, called)
    for port in (*graph.input, *graph.initializer, *graph.output):
        port.name = called(port.name)


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Give every node a name of its own: quantizers tell layers apart by it."""
    said, taken = {node.name for node in graph.node}, {""}
    for node in graph.node:
        if node.name in taken:
            node.name = next(name for n in count() if (name := f"{node.op_type}_{n}") not in said)
            said.add(node.name)
        taken.add(node.name)
