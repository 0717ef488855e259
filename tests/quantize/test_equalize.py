"""Tests of edgetl/quantize/equalize.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgetl.compile import feed_of
from edgetl.quantize import calibrate, calibrate_equalized, equalize, equalize_channels
from edgetl.recipe import CalibrationRecipe
from edgetl.records import FloatArray, ImageArray

SIDE, CLASSES = 16, 3
RECIPE = CalibrationRecipe(schema=1, name="plain", description="-", method="minmax", images=40)
make = helper.make_node


def photos(count: int = 16, seed: int = 0) -> ImageArray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)


def network(*last: onnx.NodeProto, uneven: float = 4.0) -> onnx.ModelProto:
    """Return a core graph like a fire module of squeezenet: one convolution, two behind it that are joined, a third,
    the mean of its planes, and a head; channels of each are of `uneven` sizes. `last` takes the head's place, and gives
    `logits` from `mixed`."""
    draw = np.random.default_rng(1)
    shapes = {"squeeze": (8, 3, 3, 3), "left": (8, 8, 1, 1), "right": (8, 8, 3, 3), "mix": (8, 16, 1, 1)}
    tensors = {"head": draw.normal(0, 1, (CLASSES, 8))}
    for name, shape in shapes.items():
        sizes = np.geomspace(1 / uneven, uneven, 8)[draw.permutation(8)]
        tensors[name] = draw.normal(0, 1, shape) / np.sqrt(np.prod(shape[1:])) * sizes.reshape(8, 1, 1, 1)
        tensors[f"{name}_bias"] = draw.normal(0, 0.1, 8) * sizes
    nodes = [
        make("Conv", ["image", "squeeze", "squeeze_bias"], ["a"], name="squeeze", pads=[1, 1, 1, 1]),
        make("Relu", ["a"], ["b"], name="relu_a"),
        make("MaxPool", ["b"], ["c"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        make("Conv", ["c", "left", "left_bias"], ["d"], name="left"),
        make("Relu", ["d"], ["e"], name="relu_d"),
        make("Conv", ["c", "right", "right_bias"], ["f"], name="right", pads=[1, 1, 1, 1]),
        make("Relu", ["f"], ["g"], name="relu_f"),
        make("Concat", ["e", "g"], ["both"], name="join", axis=1),
        make("Conv", ["both", "mix", "mix_bias"], ["h"], name="mix"),
        make("Relu", ["h"], ["mixed"], name="relu_h"),
        *(
            last
            or (
                make("ReduceMean", ["mixed", "axes"], ["flat"], name="mean", keepdims=0),
                make("Gemm", ["flat", "head"], ["logits"], name="head", transB=1),
            )
        ),
    ]
    constants = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in tensors.items()]
    graph = helper.make_graph(
        nodes,
        "core",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["images", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        [*constants, numpy_helper.from_array(np.array([2, 3]), "axes")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def run(model: onnx.ModelProto, images: ImageArray, tensor: str = "logits") -> FloatArray:
    """Return a tensor as ONNX defines it."""
    watched = onnx.ModelProto.FromString(model.SerializeToString())
    if tensor != "logits":
        watched.graph.output.append(onnx.ValueInfoProto(name=tensor))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    values: FloatArray = session.run([tensor], feed_of(model, images))[0]
    return values


def peaks(model: onnx.ModelProto, tensor: str) -> FloatArray:
    values = run(model, photos(), tensor)
    found: FloatArray = np.abs(values).max(axis=(0, *range(2, values.ndim)))
    return found


def changed(model: onnx.ModelProto) -> set[str]:
    """Return the names of the weights and biases that equalizing changes."""
    after = {each.name: each for each in equalize_channels(model, [photos()]).graph.initializer}
    return {each.name for each in model.graph.initializer if each != after[each.name]}


def test_the_graph_computes_the_same_and_stays_as_it_is() -> None:
    model = network()
    before = model.SerializeToString()
    equal = equalize_channels(model, [photos(8), photos(8, seed=1)])
    expected = run(model, photos(seed=2))
    np.testing.assert_allclose(run(equal, photos(seed=2)), expected, atol=1e-5 * np.abs(expected).max())
    assert model.SerializeToString() == before


@pytest.mark.parametrize("tensor", ["c", "both"])
def test_small_channels_become_up_to_twice_as_large_and_the_largest_stays(tensor: str) -> None:
    model = network()
    before, after = peaks(model, tensor), peaks(equalize_channels(model, [photos()]), tensor)
    assert after.max() == pytest.approx(before.max(), rel=1e-5)
    assert after == pytest.approx(np.minimum(2 * before, before.max()), rel=1e-4)


def test_a_channel_that_is_always_zero_stays() -> None:
    model = network()
    for tensor in model.graph.initializer:
        if tensor.name in {"left", "left_bias"}:
            values = numpy_helper.to_array(tensor).copy()
            values[3] = 0
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    equal = {each.name: numpy_helper.to_array(each) for each in equalize_channels(model, [photos()]).graph.initializer}
    assert not equal["left"][3].any()
    assert np.isfinite(equal["mix"]).all()


@pytest.mark.parametrize(
    ("last", "kept"),
    [
        ([make("Clip", ["mixed", "", ""], ["logits"])], {"mix_bias"}),
        ([make("Add", ["mixed", "mixed"], ["logits"])], {"mix_bias"}),
        ([make("GlobalAveragePool", ["mixed"], ["logits"])], {"mix_bias"}),
        ([make("Conv", ["mixed", "mix_bias_as_planes"], ["logits"], group=8)], {"mix_bias"}),
        ([make("Conv", ["mixed", "right"], ["logits"])], {"mix_bias", "right"}),
    ],
    ids=["clip", "add", "mean", "depthwise", "weights of another's"],
)
def test_what_something_else_reads_stays(last: list[onnx.NodeProto], kept: set[str]) -> None:
    model = network(*last)
    planes = np.random.default_rng(0).normal(0, 1, (8, 1, 1, 1)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(planes, "mix_bias_as_planes"))
    found = changed(model)
    assert not found & kept
    assert {"squeeze", "squeeze_bias"} <= found or "right" in kept


def test_a_graph_that_holds_another_stays_for_that_may_read_its_channels() -> None:
    pooled = [make("GlobalAveragePool", ["mixed"], ["means"]), make("Flatten", ["means"], ["flat"])]
    classified = make("Gemm", ["flat", "head"], ["plain"], transB=1)
    assert changed(network(*pooled, classified, make("Identity", ["plain"], ["logits"])))
    model = network(*pooled, classified)
    branch = helper.make_graph(
        [make("ReduceMax", ["b"], ["most"], keepdims=0), make("Add", ["plain", "most"], ["more"])], "branch", [],
        [helper.make_tensor_value_info("more", TensorProto.FLOAT, None)],
    )  # fmt: skip
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "always"))
    model.graph.node.append(make("If", ["always"], ["logits"], then_branch=branch, else_branch=branch))
    assert not changed(model)


def test_a_graph_without_such_layers_stays() -> None:
    graph = helper.make_graph(
        [make("GlobalAveragePool", ["image"], ["logits"])],
        "core",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["images", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    assert equalize_channels(model, [photos()]) == model


class TestCalibrate:
    """Channels are equalized where INT8 leaves more signal then."""

    @pytest.mark.parametrize(
        ("before", "after", "kept"), [(22.1, 26.2, True), (33.3, 32.3, False), (30.0, 30.0, False)]
    )
    def test_the_better_graph_stays_with_its_own_ranges(
        self, before: float, after: float, kept: bool, lines: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        signals, compared = iter([before, after]), []

        def measure(original: onnx.ModelProto, *way: Any) -> float:
            compared.append(way[-1])
            assert original == model
            return next(signals)

        monkeypatch.setattr(equalize, "measure_signal", measure)
        model, parts = network(), [photos(20), photos(20, seed=1)]
        graph, statistics = calibrate_equalized(model, lambda what: iter(parts), iter(parts[1:]), RECIPE, lines)
        equal = equalize_channels(model, parts)
        assert graph == (equal if kept else model) != (model if kept else equal)
        assert statistics == calibrate(graph, parts, RECIPE)
        assert lines.said == [f"signal that INT8 leaves: {before:.1f} dB, {after:.1f} dB with channels equalized"]
        np.testing.assert_array_equal(compared, [parts[1]] * 2)

    def test_a_graph_that_has_nothing_to_equalize_is_calibrated_once(self, lines: Any) -> None:
        asked = []

        def read(what: str) -> list[ImageArray]:
            asked.append(what)
            return [photos()]

        plain = network(make("GlobalAveragePool", ["mixed"], ["means"]), make("Flatten", ["means"], ["logits"]))
        for node in plain.graph.node:
            if node.op_type == "Relu":
                node.op_type = "Sigmoid"
        graph, statistics = calibrate_equalized(plain, read, iter(()), RECIPE, lines)
        assert (graph, statistics) == (plain, calibrate(plain, [photos()], RECIPE))
        assert (asked, lines.said) == (["calibrating", "equalizing"], [])
