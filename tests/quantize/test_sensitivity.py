"""Tests of edgetl/quantize/sensitivity.py, and of layers that stay in float."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgetl.quantize import always_float, calibrate, measure_signal, rank_layers
from edgetl.quantize.by_onnxruntime import quantize_graph
from edgetl.recipe import CalibrationRecipe
from edgetl.records import ImageArray

RECIPE = CalibrationRecipe(schema=1, name="plain", description="-", method="minmax", images=8, per_channel=False)


def photos() -> ImageArray:
    return np.random.default_rng(4).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def network() -> onnx.ModelProto:
    """Return a core graph of three convolutions and a head; the weights of `wild` are of so many sizes that a scale for
    all leaves nothing of the small ones."""
    draw = np.random.default_rng(5)
    sizes = {"first": 3, "wild": 8, "third": 8}
    tensors = {name: draw.normal(0, 0.3, (8, channels, 1, 1)) for name, channels in sizes.items()}
    tensors["wild"][0] *= 1000
    tensors["damp"] = np.array([1e-3] + [1.0] * 7).reshape(1, 8, 1, 1)
    tensors["head"] = draw.normal(0, 1, (8, 3))
    nodes = [
        helper.make_node("Conv", ["image", "first"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Conv", ["b", "wild"], ["c"], name="wild"),
        helper.make_node("Mul", ["c", "damp"], ["d"], name="damp"),
        helper.make_node("Conv", ["d", "third"], ["e"], name="third"),
        helper.make_node("GlobalAveragePool", ["e"], ["f"], name="pool"),
        helper.make_node("Flatten", ["f"], ["g"], name="flatten"),
        helper.make_node("MatMul", ["g", "head"], ["logits"], name="head"),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["images", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["images", 3])],
        [numpy_helper.from_array(np.asarray(value, dtype=np.float32), name) for name, value in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def test_the_layer_that_loses_most_comes_first(network: onnx.ModelProto, lines: Any) -> None:
    statistics = calibrate(network, [photos()], RECIPE)
    ranked = rank_layers(network, statistics, RECIPE, photos(), lines)
    assert next(iter(ranked)) == "wild"
    assert sorted(ranked) == ["first", "pool", "third", "wild"]  # the head stays in float in any case
    assert list(ranked.values()) == sorted(ranked.values())
    assert ranked["wild"] < 25 < ranked["first"]
    assert lines.counted == [("quantizing layers one by one", 5)]


def test_one_scale_a_channel_mends_it(network: onnx.ModelProto, lines: Any) -> None:
    recipe = RECIPE.model_copy(update={"per_channel": True})
    statistics = calibrate(network, [photos()], recipe)
    before = rank_layers(network, statistics, RECIPE, photos(), lines)["wild"]
    assert rank_layers(network, statistics, recipe, photos(), lines)["wild"] > before + 6


@pytest.mark.parametrize("left", [(), ("wild",), ("first", "third")])
def test_layers_that_are_named_stay_in_float(left: tuple[str, ...], network: onnx.ModelProto) -> None:
    statistics = calibrate(network, [photos()], RECIPE)
    quantized = quantize_graph(network, statistics, RECIPE, float_layers=left)
    weights = {tensor.name for tensor in quantized.graph.initializer}
    in_float = {node.name for node in quantized.graph.node if node.op_type == "Conv" and node.input[1] in weights}
    assert in_float == set(left)


@pytest.mark.parametrize(("engine", "left"), [("openvino", {"pool", "head"}), ("onnxruntime", {"head"})])
def test_what_an_engine_leaves_in_float_anyway_is_not_ranked(
    engine: str, left: set[str], network: onnx.ModelProto, lines: Any
) -> None:
    statistics = calibrate(network, [photos()], RECIPE)
    anyway = always_float(engine, network, RECIPE)
    ranked = rank_layers(network, statistics, RECIPE, photos(), lines, anyway)
    assert set(ranked) == {"first", "wild", "third", "pool", "head"} - left


def test_a_scale_a_channel_keeps_more_of_the_logits_signal(network: onnx.ModelProto) -> None:
    statistics = calibrate(network, [photos()], RECIPE)
    better = RECIPE.model_copy(update={"per_channel": True})
    assert (
        measure_signal(network, network, statistics, better, photos())
        > measure_signal(network, network, statistics, RECIPE, photos()) + 3
    )


def test_what_another_graph_computes_otherwise_is_noise_too(network: onnx.ModelProto) -> None:
    other = onnx.ModelProto.FromString(network.SerializeToString())
    head = next(tensor for tensor in other.graph.initializer if tensor.name == "head")
    head.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(head), "head"))
    statistics = calibrate(other, [photos()], RECIPE)
    # Twice the logits: as much noise as signal, but for what rounding adds.
    assert measure_signal(network, other, statistics, RECIPE, photos()) == pytest.approx(0, abs=1)
