"""Tests of edgetl/quantize/by_modelopt.py: graphs that TensorRT takes, made without a GPU."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest

from edgetl.compile import compile_graph, in_float32
from edgetl.errors import CalibrationError
from edgetl.outcomes import Statistics
from edgetl.quantize import calibrate
from edgetl.quantize.by_modelopt import type_graph
from edgetl.quantize.by_onnxruntime import quantize_graph
from edgetl.recipe import load_recipe, recipe_names
from edgetl.records import FloatArray, ImageArray, Precision

pytest.importorskip("modelopt", reason="ModelOpt is not installed here")

ALL: tuple[Precision, ...] = ("int8+fp16", "int8", "fp16")
MINMAX = load_recipe("minmax")
IMAGES = np.random.default_rng(5).integers(0, 256, (24, 33, 33, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def statistics(tiny_core: Any) -> Statistics:
    return calibrate(tiny_core, [IMAGES[:16], IMAGES[16:]], load_recipe("minmax"))


@pytest.fixture(scope="module")
def typed(tiny_core: Any, statistics: Statistics) -> dict[Precision, onnx.ModelProto]:
    return type_graph(tiny_core, statistics, IMAGES[:8], MINMAX, ALL)


def run(model: onnx.ModelProto, images: ImageArray) -> FloatArray:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": images.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)})[0]


def nodes(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def kinds(model: onnx.ModelProto, part: str) -> set[int]:
    return {tensor.data_type for tensor in model.graph.initializer if part in tensor.name}


@pytest.mark.parametrize(("precision", "most"), [("int8+fp16", 0.05), ("int8", 0.05), ("fp16", 0.005)])
def test_a_typed_graph_answers_nearly_as_float_does(
    precision: Precision, most: float, typed: dict[Precision, onnx.ModelProto], tiny_core: Any
) -> None:
    expected = run(tiny_core, IMAGES)
    assert np.abs(run(typed[precision], IMAGES) - expected).max() <= most * np.abs(expected).max()


@pytest.mark.parametrize("precision", ALL)
def test_borders_stay_float32_and_the_opset_is_what_jetpack_6_parses(
    precision: Precision, typed: dict[Precision, onnx.ModelProto]
) -> None:
    model = typed[precision]
    borders = [value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)]
    assert borders == [onnx.TensorProto.FLOAT] * 2
    assert [each.version for each in model.opset_import] == [19]


def test_scales_have_the_type_of_what_is_left_in_float(typed: dict[Precision, onnx.ModelProto]) -> None:
    half, whole, signed = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT, onnx.TensorProto.INT8
    assert (kinds(typed["int8+fp16"], "scale"), kinds(typed["int8"], "scale")) == ({half}, {whole})
    assert kinds(typed["int8+fp16"], "zero_point") == kinds(typed["int8"], "zero_point") == {signed}
    assert kinds(typed["fp16"], "") == {half}


@pytest.mark.parametrize("precision", ALL)
def test_what_is_compiled_keeps_modelopts_placement(
    precision: Precision, typed: dict[Precision, onnx.ModelProto]
) -> None:
    before = typed[precision]
    after = onnx.load_from_string(compile_graph(before.SerializeToString(), "tensorrt").content.graph)
    pairs = [
        [(node.name, *node.output) for node in model.graph.node if "quantize" in node.op_type.lower()]
        for model in (before, after)
    ]
    assert pairs[0] == pairs[1]
    assert nodes(after) - nodes(before) == Counter({"Cast": 1, "Transpose": 1, "Div": 1})


def activations(model: onnx.ModelProto) -> dict[str, list[float]]:
    """Return the scales of each activation by its name: its QuantizeLinear's and its DequantizeLinear's."""
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    found: dict[str, list[float]] = {}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] not in stored:
            back = [each for each in model.graph.node if node.output[0] in each.input]
            found[node.input[0]] = [float(stored[each.input[1]]) for each in (node, *back)]
    return found


def test_every_activation_has_the_scale_of_its_calibrated_range(
    typed: dict[Precision, onnx.ModelProto], statistics: Statistics
) -> None:
    scales = activations(typed["int8"])
    assert set(scales) > {"image"}
    assert scales["image"] == pytest.approx([1 / 127] * 2)
    for name, both in scales.items():
        assert both == pytest.approx([max(map(abs, statistics.ranges[name])) / 127] * 2, rel=1e-6)
    halves = activations(typed["int8+fp16"])
    assert len(halves) == len(scales)
    assert sorted(halves.values()) == [pytest.approx(each, rel=1e-3) for each in sorted(scales.values())]


@pytest.mark.parametrize("method", recipe_names())
def test_every_recipe_serves(tiny_core: Any, method: str) -> None:
    found = calibrate(tiny_core, [IMAGES], load_recipe(method))
    graph = type_graph(tiny_core, found, IMAGES[:8], load_recipe(method), ("int8",))["int8"]
    expected = run(tiny_core, IMAGES)
    assert np.abs(run(graph, IMAGES) - expected).max() <= 0.2 * np.abs(expected).max()


def test_an_activation_that_is_always_zero_has_a_scale_that_float16_holds(
    tiny_core: Any, statistics: Statistics
) -> None:
    dead = statistics.model_copy(update={"ranges": dict.fromkeys(statistics.ranges, (0.0, 0.0))})
    for precision, graph in type_graph(tiny_core, dead, IMAGES[:8], MINMAX, ("int8+fp16", "int8")).items():
        compile_graph(graph.SerializeToString(), "tensorrt")
        assert {scale for both in activations(graph).values() for scale in both} == {2.0**-24}, precision


@pytest.mark.parametrize("precision", ["int8+fp16", "fp16"])
def test_a_layer_that_sees_what_is_too_large_for_float16_stays_in_float32(tiny_core: Any, precision: Precision) -> None:
    large = onnx.ModelProto.FromString(tiny_core.SerializeToString())
    kernel = next(each for each in large.graph.initializer if each.name == "kernel")
    kernel.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(kernel) * np.float32(3e5), "kernel"))
    found = calibrate(large, [IMAGES], load_recipe("minmax"))
    assert max(abs(bound) for both in found.ranges.values() for bound in both) > 65504
    typed = type_graph(large, found, IMAGES[:8], MINMAX, (precision,))[precision]
    expected = run(large, IMAGES)
    assert np.abs(run(typed, IMAGES) - expected).max() <= 0.05 * np.abs(expected).max()


def test_an_activation_without_a_range_is_an_error(tiny_core: Any) -> None:
    with pytest.raises(CalibrationError, match=r"ModelOpt quantizes image, .*whose range calibration did not find"):
        type_graph(tiny_core, Statistics(ranges={}, means={}), IMAGES[:8], MINMAX, ("int8",))


def test_what_quantized_concats_join_has_one_scale() -> None:
    model = joined()
    found = calibrate(model, [IMAGES], load_recipe("minmax"))
    scales = activations(type_graph(model, found, IMAGES[:8], MINMAX, ("int8",))["int8"])
    names = ("left", "right", "both", "all")
    assert set(names) <= set(scales)
    widest = max(max(map(abs, found.ranges[name])) for name in names) / 127
    assert max(map(abs, found.ranges["left"])) / 127 < 0.9 * widest
    assert [scales[name] for name in names] == [pytest.approx([widest] * len(scales[name])) for name in names]


def joined() -> onnx.ModelProto:
    """Return a network whose joined branches, which are read one by one too, are joined again with wider ones."""
    random = np.random.default_rng(3)

    def weights(*shape: int, scale: float = 0.125) -> onnx.TensorProto:
        return onnx.numpy_helper.from_array((scale * random.normal(size=shape)).astype(np.float32))

    # ModelOpt leaves convolutions of fewer channels in float.
    kernels = {
        "kernel_a": weights(32, 3, 3, 3), "kernel_b": weights(32, 3, 3, 3), "kernel_c": weights(32, 64, 3, 3, scale=1),
        "kernel_d": weights(32, 32, 3, 3), "kernel_e": weights(32, 32, 3, 3), "kernel_f": weights(32, 160, 3, 3),
        "head": weights(32, 3),
    }  # fmt: skip
    for name, tensor in kernels.items():
        tensor.name = name
    node = onnx.helper.make_node
    nodes = [
        node("Conv", ["image", "kernel_a"], ["a"], strides=[2, 2]), node("Relu", ["a"], ["left"]),
        node("Conv", ["image", "kernel_b"], ["b"], strides=[2, 2]), node("Relu", ["b"], ["right"]),
        node("Concat", ["left", "right"], ["both"], axis=1),
        node("Conv", ["both", "kernel_c"], ["c"], pads=[1] * 4), node("Relu", ["c"], ["d"]),
        node("Conv", ["left", "kernel_d"], ["e"], pads=[1] * 4), node("Relu", ["e"], ["f"]),
        node("Conv", ["right", "kernel_e"], ["g"], pads=[1] * 4), node("Relu", ["g"], ["h"]),
        node("Concat", ["both", "d", "f", "h"], ["all"], axis=1), node("Conv", ["all", "kernel_f"], ["i"]),
        node("GlobalAveragePool", ["i"], ["j"]), node("Flatten", ["j"], ["k"]),
        node("MatMul", ["k", "head"], ["logits"]),
    ]  # fmt: skip
    for index, each in enumerate(nodes):
        each.name = f"node_{index}"
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes, "joined", [value("image", onnx.TensorProto.FLOAT, ["images", 3, 33, 33])],
        [value("logits", onnx.TensorProto.FLOAT, ["images", 3])], list(kernels.values()),
    )  # fmt: skip
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)], ir_version=9)


@pytest.mark.parametrize("precision", ALL)
def test_a_typed_graph_in_float32_answers_alike_and_has_no_float16(
    precision: Precision, typed: dict[Precision, onnx.ModelProto]
) -> None:
    plain = onnx.load_from_string(in_float32(typed[precision].SerializeToString()))
    onnx.checker.check_model(plain, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(plain, strict_mode=True).graph
    kinds = {each.type.tensor_type.elem_type for each in inferred.value_info}
    assert onnx.TensorProto.FLOAT16 not in kinds | {each.data_type for each in plain.graph.initializer}
    expected = run(typed[precision], IMAGES)
    assert np.abs(run(plain, IMAGES) - expected).max() <= 0.01 * np.abs(expected).max()


def test_only_what_is_asked_for_is_made(tiny_core: Any, statistics: Statistics) -> None:
    assert list(type_graph(tiny_core, statistics, IMAGES[:8], MINMAX, ("fp16",))) == ["fp16"]
    assert list(type_graph(tiny_core, statistics, IMAGES[:8], MINMAX, ("int8+fp16",))) == ["int8+fp16"]


def test_onnx_runtimes_quantizer_is_left_as_it_was(tiny_core: Any, statistics: Statistics) -> None:
    recipe = load_recipe("minmax")
    before = quantize_graph(tiny_core, statistics, recipe).SerializeToString(deterministic=True)
    type_graph(tiny_core, statistics, IMAGES[:8], MINMAX, ALL)
    assert calibrate(tiny_core, [IMAGES[:16], IMAGES[16:]], recipe) == statistics
    assert quantize_graph(tiny_core, statistics, recipe).SerializeToString(deterministic=True) == before
