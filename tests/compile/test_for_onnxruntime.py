"""Tests of edgetl/compile/__init__.py and edgetl/compile/for_onnxruntime.py."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgetl.compile import compile_graph
from edgetl.errors import ExportError, MissingError, TargetError
from edgetl.quantize import calibrate
from edgetl.quantize.by_onnxruntime import quantize_graph
from edgetl.recipe import load_recipe
from edgetl.records import FloatArray, ImageArray, TensorSpec

SIDE = 33


def draw(count: int, seed: int = 0) -> ImageArray:
    """Return images of blocks and noise, black and white pixels among them."""
    draw = np.random.default_rng(seed)
    blocks = draw.integers(0, 256, (count, 3, 3, 3)).repeat(11, axis=1).repeat(11, axis=2)
    noisy = blocks + draw.integers(-20, 21, blocks.shape)
    return noisy.clip(0, 255).astype(np.uint8)


def core(nodes: list[onnx.NodeProto], shapes: dict[str, tuple[int, ...]]) -> onnx.ModelProto:
    """Return a core graph that ends in the logits of 3 classes, its weights drawn in these shapes."""
    random = np.random.default_rng(4)
    graph = helper.make_graph(
        nodes,
        "core",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["images", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["images", 3])],
        [
            numpy_helper.from_array(random.normal(0, 0.5, shape).astype(np.float32), name)
            for name, shape in shapes.items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def head(features: str, channels: int) -> tuple[list[onnx.NodeProto], dict[str, tuple[int, ...]]]:
    nodes = [
        helper.make_node("GlobalAveragePool", [features], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "head", "head_bias"], ["logits"]),
    ]
    return nodes, {"head": (channels, 3), "head_bias": (3,)}


def convolution() -> onnx.ModelProto:
    nodes, shapes = head("kept", 8)
    first = [
        helper.make_node("Conv", ["image", "kernel", "bias"], ["edges"], strides=[2, 2]),
        helper.make_node("Relu", ["edges"], ["kept"]),
    ]
    return core(first + nodes, {"kernel": (8, 3, 3, 3), "bias": (8,), **shapes})


def without_bias() -> onnx.ModelProto:
    nodes, shapes = head("edges", 4)
    return core([helper.make_node("Conv", ["image", "kernel"], ["edges"]), *nodes], {"kernel": (4, 3, 3, 3), **shapes})


def two_readers() -> onnx.ModelProto:
    nodes, shapes = head("both", 8)
    first = [
        helper.make_node("Conv", ["image", "narrow"], ["a"]),
        helper.make_node("Conv", ["image", "wide"], ["b"], pads=[1, 1, 1, 1]),
        helper.make_node("Concat", ["a", "b"], ["both"], axis=1),
    ]
    return core(first + nodes, {"narrow": (4, 3, 1, 1), "wide": (4, 3, 3, 3), **shapes})


def pooling_first() -> onnx.ModelProto:
    nodes, shapes = head("edges", 4)
    first = [
        helper.make_node("MaxPool", ["image"], ["small"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["small", "kernel"], ["edges"]),
    ]
    return core(first + nodes, {"kernel": (4, 3, 3, 3), **shapes})


def separable() -> onnx.ModelProto:
    nodes, shapes = head("mixed", 8)
    first = [
        helper.make_node("Conv", ["image", "each"], ["apart"], group=3),
        helper.make_node("Conv", ["apart", "mix"], ["mixed"]),
    ]
    return core(first + nodes, {"each": (3, 1, 3, 3), "mix": (8, 3, 1, 1), **shapes})


def no_convolution() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("Gemm", ["flat", "head", "head_bias"], ["logits"]),
    ]
    return core(nodes, {"head": (3 * SIDE * SIDE, 3), "head_bias": (3,)})


CORES = {
    each.__name__: each for each in (convolution, without_bias, two_readers, pooling_first, separable, no_convolution)
}


def run(content: bytes, images: np.ndarray, fused: bool = True) -> FloatArray:
    """Return the logits; without fusing, the arithmetic between Q/DQ pairs is done in float and so exact."""
    options = onnxruntime.SessionOptions()
    if not fused:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    logits: FloatArray = session.run(["logits"], {"image": images})[0]
    return logits


def shares(images: ImageArray) -> FloatArray:
    """Return what a core graph reads: planes of pixel/255."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)).astype(np.float32) / np.float32(255)


def quantized(model: onnx.ModelProto, reduce_range: bool = False) -> onnx.ModelProto:
    recipe = load_recipe("minmax").model_copy(update={"reduce_range": reduce_range})
    return quantize_graph(model, calibrate(model, [draw(8, seed) for seed in range(4)], recipe), recipe)


def assert_same(found: FloatArray, expected: FloatArray) -> None:
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("name", CORES)
class TestTheFace:
    @pytest.mark.parametrize("count", [1, 2, 5])
    def test_a_float_artifact_answers_for_bytes_as_its_core_for_shares(self, count: int, name: str) -> None:
        model, images = CORES[name](), draw(count)
        found = run(compile_graph(model.SerializeToString(), "onnxruntime").content.graph, images)
        assert_same(found, run(model.SerializeToString(), shares(images)))

    @pytest.mark.parametrize("count", [1, 2, 5])
    def test_an_int8_artifact_answers_for_bytes_as_its_core_for_shares(self, count: int, name: str) -> None:
        model, images = quantized(CORES[name]()), draw(count)
        found = run(compile_graph(model.SerializeToString(), "onnxruntime").content.graph, images, fused=False)
        assert_same(found, run(model.SerializeToString(), shares(images), fused=False))

    def test_an_int8_artifact_answers_exactly_in_fast_kernels_that_cannot_saturate(self, name: str) -> None:
        # Sums of two 8-bit products overflow 16 bits on x86 without VNNI; weights of 7 bits keep them inside.
        model, images = quantized(CORES[name](), reduce_range=True), draw(5)
        found = run(compile_graph(model.SerializeToString(), "onnxruntime").content.graph, images)
        assert_same(found, run(model.SerializeToString(), shares(images), fused=False))

    @pytest.mark.parametrize("precision", ["fp32", "int8"])
    def test_every_level_of_a_pixel_is_read_alike(self, precision: str, name: str) -> None:
        model = CORES[name]() if precision == "fp32" else quantized(CORES[name]())
        images = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None, None], (256, SIDE, SIDE, 3)).copy()
        found = run(compile_graph(model.SerializeToString(), "onnxruntime").content.graph, images, fused=False)
        assert_same(found, run(model.SerializeToString(), shares(images), fused=False))

    def test_the_border_is_bytes_in_rows_and_logits(self, name: str) -> None:
        compiled = compile_graph(CORES[name]().SerializeToString(), "onnxruntime")
        assert compiled.input == TensorSpec(name="image", dtype="uint8", shape=(-1, SIDE, SIDE, 3))
        assert compiled.output == TensorSpec(name="logits", dtype="float32", shape=(-1, 3))
        assert compiled.suffix == ".onnx"


class TestTheGraph:
    def operators(self, model: onnx.ModelProto) -> list[str]:
        content = compile_graph(model.SerializeToString(), "onnxruntime").content.graph
        return [node.op_type for node in onnx.load_from_string(content).graph.node]

    def test_a_float_graph_scales_pixels_in_its_first_weights(self) -> None:
        assert self.operators(convolution())[:3] == ["Transpose", "Cast", "Conv"]

    def test_a_float_graph_without_one_first_convolution_scales_them_openly(self) -> None:
        for make in (two_readers, pooling_first, no_convolution):
            assert self.operators(make())[:3] == ["Transpose", "Cast", "Div"]

    def test_an_int8_graph_neither_scales_nor_quantizes_the_image(self) -> None:
        found = self.operators(quantized(convolution()))
        assert not {"Cast", "Div", "Mul"} & set(found)
        assert found.index("DequantizeLinear") < found.index("QuantizeLinear")

    def test_zero_points_of_channels_that_are_all_zero_are_left_out(self) -> None:
        def counts(graph: onnx.GraphProto) -> list[int]:
            stored = {tensor.name: tensor for tensor in graph.initializer}
            by_channels = [
                node for node in graph.node
                if node.op_type == "DequantizeLinear" and len(stored[node.input[1]].dims) == 1
            ]  # fmt: skip
            return [len(node.input) for node in by_channels]

        model = quantized(convolution())
        compiled = onnx.load_from_string(compile_graph(model.SerializeToString(), "onnxruntime").content.graph)
        assert set(counts(model.graph)) == {3}
        assert len(counts(compiled.graph)) == len(counts(model.graph))
        assert set(counts(compiled.graph)) == {2}

    @pytest.mark.parametrize(("width", "together"), [(33, 1), (34, 2), (36, 4), (40, 8)])
    def test_pixels_are_widened_by_as_many_as_go_into_the_image(self, width: int, together: int) -> None:
        model = quantized(convolution(), reduce_range=True)
        model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = width
        content = compile_graph(model.SerializeToString(), "onnxruntime").content.graph
        turned = next(node for node in onnx.load_from_string(content).graph.node if node.op_type == "Gather")
        stored = {tensor.name: tensor for tensor in onnx.load_from_string(content).graph.initializer}
        assert stored[turned.input[1]].dims[0] == 4 * together
        images = np.random.default_rng(2).integers(0, 256, (3, SIDE, width, 3), dtype=np.uint8)
        assert_same(run(content, images), run(model.SerializeToString(), shares(images), fused=False))

    def test_the_same_graph_gives_the_same_bytes(self) -> None:
        for model in (convolution(), quantized(convolution())):
            first, second = (compile_graph(model.SerializeToString(), "onnxruntime").content.graph for _ in range(2))
            assert first == second


class TestRefusals:
    def test_an_engine_that_is_not_known_is_named(self) -> None:
        with pytest.raises(TargetError, match=r"engine 'abacus' cannot be compiled for here\. Known: onnxruntime"):
            compile_graph(b"", "abacus")

    @pytest.mark.parametrize(
        ("engine", "library", "extra"), [("onnxruntime", "onnx", "train"), ("openvino", "openvino", "openvino")]
    )
    def test_a_missing_library_is_named_with_the_command_that_brings_it(
        self, engine: str, library: str, extra: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, library, None)
        message = rf"{library} is needed to compile a graph .* is not installed\. Run: pip install 'edgetl\[{extra}\]'"
        with pytest.raises(MissingError, match=message):
            compile_graph(b"", engine)

    def test_a_graph_of_two_inputs_is_refused(self) -> None:
        model = convolution()
        model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))
        with pytest.raises(ExportError, match=r"a core graph has one input and one output, found 2 and 1"):
            compile_graph(model.SerializeToString(), "onnxruntime")

    def test_a_graph_of_two_outputs_is_refused(self) -> None:
        model = convolution()
        model.graph.output.append(helper.make_tensor_value_info("edges", TensorProto.FLOAT, None))
        with pytest.raises(ExportError, match=r"a core graph has one input and one output, found 1 and 2"):
            compile_graph(model.SerializeToString(), "onnxruntime")

    @pytest.mark.parametrize("shape", [["images", 1, 33, 33], ["images", 33, 33, 3], ["images", 3, 33], [3]])
    def test_a_graph_that_reads_no_planes_of_rgb_is_refused(self, shape: list[Any]) -> None:
        model = convolution()
        del model.graph.input[:]
        model.graph.input.append(helper.make_tensor_value_info("image", TensorProto.FLOAT, shape))
        with pytest.raises(ExportError, match=r"a core graph reads \(images, 3, height, width\), found \["):
            compile_graph(model.SerializeToString(), "onnxruntime")

    @pytest.mark.parametrize(
        ("scale", "zero_point"), [(1 / 128, np.uint8(0)), (1 / 255, np.uint8(1)), (1 / 255, np.int8(0))]
    )
    def test_an_input_quantized_unlike_bytes_is_refused(self, scale: float, zero_point: Any) -> None:
        model = quantized(convolution())
        node = next(node for node in model.graph.node if node.op_type == "QuantizeLinear" and node.input[0] == "image")
        for tensor in model.graph.initializer:
            if tensor.name == node.input[1]:
                tensor.CopyFrom(numpy_helper.from_array(np.array(scale, np.float32), tensor.name))
            elif tensor.name == node.input[2]:
                tensor.CopyFrom(numpy_helper.from_array(np.array(zero_point), tensor.name))
        message = r"input is quantized with scale .* and zero point [01], but a photo's bytes are scale 1/255 and zero"
        with pytest.raises(ExportError, match=message):
            compile_graph(model.SerializeToString(), "onnxruntime")


class TestOptimise:
    @pytest.mark.parametrize("kind", ["float", "int8"])
    def test_the_graph_stays_plain_onnx_and_comes_out_the_same_every_time(self, kind: str) -> None:
        core = convolution() if kind == "float" else quantized(convolution())
        first, second = (compile_graph(core.SerializeToString(), "onnxruntime").content.graph for _ in range(2))
        model = onnx.load_from_string(first)
        assert first == second
        assert [each.domain for each in model.opset_import] == [""]
        assert {node.domain for node in model.graph.node} == {""}

    def test_what_can_be_computed_beforehand_is(self) -> None:
        core = convolution()
        kernel = next(node for node in core.graph.node if node.op_type == "Conv").input[1]
        core.graph.node.insert(0, onnx.helper.make_node("Neg", [kernel], ["negated"]))
        core.graph.node.insert(1, onnx.helper.make_node("Neg", ["negated"], ["kernel_again"]))
        next(node for node in core.graph.node if node.op_type == "Conv").input[1] = "kernel_again"
        made = onnx.load_from_string(compile_graph(core.SerializeToString(), "onnxruntime").content.graph)
        assert "Neg" not in {node.op_type for node in made.graph.node}

    def test_a_graph_that_onnx_runtime_cannot_read_is_an_error(self) -> None:
        core = convolution()
        core.opset_import[0].version = 19
        core.ir_version = 99
        with pytest.raises(ExportError, match=r"cannot read the graph|not valid ONNX"):
            compile_graph(core.SerializeToString(), "onnxruntime")
