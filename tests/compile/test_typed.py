"""Tests of edgetl/compile/typed.py: each rule of TensorRT's is broken in a graph, and found without a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgetl.compile.typed import check_typed
from edgetl.errors import ExportError

Change = Callable[[onnx.GraphProto], None]


Pair = tuple[list[onnx.NodeProto], list[onnx.TensorProto]]


def pair(name: str, made: str, channels: int = 0) -> Pair:
    """Return Q/DQ of a tensor as `made`, and their constants; with channels, one scale each along axis 0."""
    size, said = ((channels,), {"axis": 0}) if channels else ((), {})
    constants = [
        numpy_helper.from_array(np.full(size, 0.05, np.float32), f"{made}_scale"),
        numpy_helper.from_array(np.zeros(size, np.int8), f"{made}_point"),
    ]
    scale = [f"{made}_scale", f"{made}_point"]
    nodes = [
        helper.make_node("QuantizeLinear", [name, *scale], [f"{made}_q"], f"{made}_Q", **said),
        helper.make_node("DequantizeLinear", [f"{made}_q", *scale], [made], f"{made}_DQ", **said),
    ]
    return nodes, constants


@pytest.fixture
def residual() -> onnx.ModelProto:
    """Return a block as ModelOpt types it: Q/DQ on the convolution's input and weight, on the Add's other branch."""
    activation, first = pair("image", "x")
    weight, second = pair("kernel", "w", channels=3)
    kernel = numpy_helper.from_array(np.ones((3, 3, 1, 1), np.float32), "kernel")
    graph = helper.make_graph(
        [
            *activation, *weight,
            helper.make_node("Conv", ["x", "w"], ["edges"], "conv"),
            helper.make_node("Add", ["edges", "x"], ["sum"], "add"),
            helper.make_node("Relu", ["sum"], ["logits"], "relu"),
        ],
        "residual",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["images", 3, 4, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["images", 3, 4, 4])],
        [*first, *second, kernel],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def put(graph: onnx.GraphProto, name: str, array: Any) -> None:
    tensor = next(each for each in graph.initializer if each.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(array), name))


def between(graph: onnx.GraphProto, tensor: str, reader: str, made: str) -> None:
    """Put Q/DQ between a tensor and one of its readers."""
    nodes, constants = pair(tensor, made)
    place = next(index for index, node in enumerate(graph.node) if node.name == reader)
    node = graph.node[place]
    node.input[:] = [made if name == tensor else name for name in node.input]
    for offset, each in enumerate(nodes):
        graph.node.insert(place + offset, each)
    graph.initializer.extend(constants)


def unsigned(graph: onnx.GraphProto) -> None:
    put(graph, "x_point", np.zeros((), np.uint8))


def without_point(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        if node.name in {"x_Q", "x_DQ"}:
            del node.input[2:]


def quantize_output(graph: onnx.GraphProto) -> None:
    nodes, constants = pair("plain", "logits")
    graph.node[-1].output[0] = "plain"
    graph.node.extend(nodes)
    graph.initializer.extend(constants)


def other_axis(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        if node.name in {"w_Q", "w_DQ"}:
            node.attribute[0].i = 1


def activation_by_channel(graph: onnx.GraphProto) -> None:
    put(graph, "x_scale", np.full(3, 0.05, np.float32))
    put(graph, "x_point", np.zeros(3, np.int8))
    for node in graph.node:
        if node.name in {"x_Q", "x_DQ"}:
            node.attribute.append(helper.make_attribute("axis", 1))


def split_add(graph: onnx.GraphProto) -> None:
    between(graph, "edges", "add", "split")


def split_relu(graph: onnx.GraphProto) -> None:
    graph.node[-1].input[0] = "edges"
    between(graph, "edges", "relu", "split")


def computed_scale(graph: onnx.GraphProto) -> None:
    graph.initializer.remove(next(each for each in graph.initializer if each.name == "x_scale"))
    graph.node.insert(0, helper.make_node("Abs", ["raw"], ["x_scale"], "abs"))
    graph.initializer.append(numpy_helper.from_array(np.float32(0.05), "raw"))


BREAKS: dict[str, tuple[Change, str]] = {
    "unsigned": (unsigned, r"x_Q: its zero point is UINT8; TensorRT takes INT8 only"),
    "no zero point": (without_point, r"x_Q: has no constant zero point, so its type would be unsigned"),
    "zero point": (
        lambda graph: put(graph, "x_point", np.int8(3)),
        r"x_Q: a zero point is not 0; .*symmetric",
    ),
    "scale 0": (lambda graph: put(graph, "x_scale", np.float32(0)), r"x_Q: a scale is not positive and finite"),
    "scale nan": (lambda graph: put(graph, "x_scale", np.float32(np.nan)), r"x_Q: a scale is not positive and finite"),
    "computed scale": (computed_scale, r"x_Q: its scale is no constant"),
    "axis": (other_axis, r"w_Q: the weight of Conv conv is quantized along axis 1, its output channels are axis 0"),
    "activation": (activation_by_channel, r"x_Q: an activation is quantized per channel"),
    "add": (split_add, r"add: Q/DQ stand between it and its convolution"),
    "relu": (split_relu, r"relu: Q/DQ stand between it and its convolution"),
    "output": (quantize_output, r"logits: the output is quantized"),
}


def test_a_graph_as_modelopt_types_it_is_taken(residual: onnx.ModelProto) -> None:
    check_typed(residual)


def test_a_convolution_that_another_operator_reads_too_may_reach_an_add_quantized(residual: onnx.ModelProto) -> None:
    split_add(residual.graph)
    residual.graph.node.append(helper.make_node("Sigmoid", ["edges"], ["gate"], "gate"))
    check_typed(residual)


@pytest.mark.parametrize("broken", BREAKS)
def test_a_graph_that_breaks_a_rule_is_refused_with_the_node(broken: str, residual: onnx.ModelProto) -> None:
    change, message = BREAKS[broken]
    change(residual.graph)
    with pytest.raises(ExportError, match=message):
        check_typed(residual)


@pytest.mark.parametrize("opset", [17, 20, 21])
def test_another_opset_is_refused(opset: int, residual: onnx.ModelProto) -> None:
    residual.opset_import[0].version = opset
    with pytest.raises(ExportError, match=rf"of opset 19 and no other, found ai\.onnx {opset}"):
        check_typed(residual)


def test_operators_of_another_domain_are_refused(residual: onnx.ModelProto) -> None:
    residual.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(ExportError, match=r"found ai\.onnx 19, com\.microsoft 1"):
        check_typed(residual)


def test_a_scale_of_another_type_than_what_it_scales_is_refused(residual: onnx.ModelProto) -> None:
    put(residual.graph, "x_scale", np.float16(0.05))
    with pytest.raises(ExportError, match=r"x_Q|types do not fit"):
        check_typed(residual)
