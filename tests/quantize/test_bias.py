"""Tests of edgetl/quantize/bias.py."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgetl.compile import feed_of
from edgetl.quantize import calibrate
from edgetl.quantize.bias import correct_biases
from edgetl.quantize.by_engine import quantize_for
from edgetl.quantize.by_onnxruntime import quantize_graph
from edgetl.recipe import load_recipe
from edgetl.records import FloatArray, ImageArray

PLAIN = load_recipe("minmax").model_copy(update={"bias_correction": False})
CORRECTED = PLAIN.model_copy(update={"bias_correction": True})


def photos() -> ImageArray:
    return np.random.default_rng(6).integers(100, 256, (16, 12, 12, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def network() -> onnx.ModelProto:
    """Return a core graph with a plain, a depthwise and a grouped convolution; all weights lean to one side, so that
    rounding them shifts means."""
    draw = np.random.default_rng(7)
    tensors = {
        "first": draw.normal(0.2, 0.4, (8, 3, 3, 3)),
        "deep": draw.normal(0.2, 0.4, (8, 1, 3, 3)),
        "grouped": draw.normal(0.2, 0.4, (6, 4, 1, 1)),
        **{f"{name}_bias": draw.normal(0, 0.1, count) for name, count in {"first": 8, "deep": 8, "grouped": 6}.items()},
    }
    nodes = [
        helper.make_node("Conv", ["image", "first", "first_bias"], ["a"], name="one"),
        helper.make_node("Conv", ["a", "deep", "deep_bias"], ["b"], name="two", group=8),
        helper.make_node("Conv", ["b", "grouped", "grouped_bias"], ["c"], name="three", group=2),
        helper.make_node("GlobalAveragePool", ["c"], ["d"], name="pool"),
        helper.make_node("Flatten", ["d"], ["logits"], name="flatten"),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["images", 3, 12, 12])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["images", 6])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def mean_logits(model: onnx.ModelProto) -> FloatArray:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    means: FloatArray = session.run(None, feed_of(model, photos()))[0].mean(axis=0)
    return means


# With 8-bit weights, as TensorRT has them, most of what is lost comes from activations.
@pytest.mark.parametrize(("engine", "share"), [("onnxruntime", 0.5), ("tensorrt", 0.9)])
def test_the_mean_of_what_comes_out_is_nearer_to_that_of_float(
    engine: str, share: float, network: onnx.ModelProto
) -> None:
    if engine == "tensorrt":
        pytest.importorskip("modelopt", reason="ModelOpt quantizes for TensorRT")
    statistics = calibrate(network, [photos()], PLAIN)
    graphs = [
        quantize_for(engine, network, statistics, [photos()[:2]], recipe, ("int8",))["int8"]
        for recipe in (PLAIN, CORRECTED)
    ]
    plain, corrected = (np.abs(mean_logits(graph) - mean_logits(network)).mean() for graph in graphs)
    assert corrected < share * plain


def test_the_means_are_those_of_every_channel_that_a_convolution_reads(network: onnx.ModelProto) -> None:
    parts = [photos()[:10], photos()[10:]]
    means = calibrate(network, parts, PLAIN).means
    assert {name: len(each) for name, each in means.items()} == {"image": 3, "a": 8, "b": 8}
    assert means["image"] == pytest.approx((photos() / 255).mean(axis=(0, 1, 2)), rel=1e-5)


def test_what_a_relu_is_fused_with_is_corrected_too(network: onnx.ModelProto) -> None:
    fused = onnx.ModelProto.FromString(network.SerializeToString())
    fused.graph.node.insert(1, helper.make_node("Relu", ["a"], ["kept"], name="relu"))
    fused.graph.node[2].input[0] = "kept"
    statistics = calibrate(fused, [photos()], PLAIN)
    quantized = quantize_graph(fused, statistics, PLAIN)
    assert "Relu" not in {node.op_type for node in quantized.graph.node}
    assert correct_biases(fused, quantized, statistics.means) == 3


def test_a_layer_in_float_keeps_its_bias(network: onnx.ModelProto) -> None:
    statistics = calibrate(network, [photos()], PLAIN)
    quantized = quantize_graph(network, statistics, PLAIN, float_layers=["two"])
    before = biases(quantized)
    assert correct_biases(network, quantized, statistics.means) == 2
    changed = {name for name, values in biases(quantized).items() if not np.array_equal(values, before[name])}
    assert {name.partition("_bias")[0] for name in changed} == {"first", "grouped"}


def biases(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {each.name: numpy_helper.to_array(each) for each in model.graph.initializer if "_bias" in each.name}
