"""Tests of edgetl/quantize/by_engine.py."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgetl.quantize import calibrate, quantize_for
from edgetl.recipe import load_recipe
from edgetl.records import ImageArray

MINMAX = load_recipe("minmax")


def shuffled() -> onnx.ModelProto:
    """Return a core graph whose channels are shuffled between two convolutions; some layers have no name."""
    random = np.random.default_rng(3)
    make = helper.make_node
    graph = helper.make_graph(
        [
            make("Conv", ["image", "first"], ["wide"], name="conv_0"),
            make("Reshape", ["wide", "in_groups"], ["grouped"], name="group"),
            make("Transpose", ["grouped"], ["turned"], name="turn", perm=[0, 2, 1, 3, 4]),
            make("Reshape", ["turned", "as_planes"], ["shuffled"]),
            make("Conv", ["shuffled", "second"], ["mixed"]),
            make("GlobalAveragePool", ["mixed"], ["pooled"], name="pool"),
            make("Flatten", ["pooled"], ["logits"], name="flat"),
        ],
        "core",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["images", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["images", 4])],
        [
            numpy_helper.from_array(random.normal(0, 1, (8, 3, 1, 1)).astype(np.float32), "first"),
            numpy_helper.from_array(random.normal(0, 1, (4, 8, 1, 1)).astype(np.float32), "second"),
            numpy_helper.from_array(np.array([0, 2, 4, 8, 8]), "in_groups"),
            numpy_helper.from_array(np.array([0, 8, 8, 8]), "as_planes"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def photos() -> list[ImageArray]:
    return [np.random.default_rng(1).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)]


def quantized_tensors(engine: str) -> set[str]:
    """Return the names of the activations that are quantized for an engine."""
    model = shuffled()
    made = quantize_for(engine, model, calibrate(model, photos(), MINMAX), photos(), MINMAX, ["int8"])
    return {node.input[0] for node in made["int8"].graph.node if node.op_type == "QuantizeLinear"}


@pytest.mark.parametrize(("engine", "carried"), [("onnxruntime", {"grouped", "turned", "pooled"}), ("openvino", set())])
def test_what_moves_or_averages_values_is_quantized_where_the_engine_needs_it(engine: str, carried: set[str]) -> None:
    found = quantized_tensors(engine)
    assert found & {"grouped", "turned", "pooled"} == carried
    assert {"image", "shuffled", "mixed"} <= found
