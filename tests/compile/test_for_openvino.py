"""Tests of edgetl/compile/for_openvino.py: what is saved."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgetl.compile import Compiled, ModelInfo
from edgetl.compile.for_openvino import compile_graph
from edgetl.compile.openvino_core import the_core
from edgetl.compile.openvino_photos import take_images
from edgetl.errors import ExportError
from edgetl.recipe import load_recipe
from edgetl.records import Border, FloatArray, Preprocess

openvino = pytest.importorskip("openvino", reason="openvino is what is compiled for")
onnx = pytest.importorskip("onnx", reason="onnx makes the graphs")
helper = onnx.helper

SIDE = 34
LABELS = ("red apple", "banana", "cherry & co")
MEAN = (124, 116, 104)


def network(height: int = SIDE, width: int = SIDE) -> Any:
    """Return a float core graph: a convolution, one a channel, and one of 1x1 that is most of the weights."""
    draw = np.random.default_rng(5)
    shapes = {
        "kernel": (16, 3, 3, 3), "kernel_bias": (16,), "each": (16, 1, 3, 3), "each_bias": (16,),
        "mix": (256, 16, 1, 1), "mix_bias": (256,), "head": (256, 3), "head_bias": (3,),
    }  # fmt: skip
    make = helper.make_node
    nodes = [
        make("Conv", ["image", "kernel", "kernel_bias"], ["a"], name="a", strides=[2, 2]),
        make("Relu", ["a"], ["b"], name="b"),
        make("Conv", ["b", "each", "each_bias"], ["c"], name="c", group=16),
        make("Conv", ["c", "mix", "mix_bias"], ["d"], name="d"),
        make("Relu", ["d"], ["e"], name="e"),
        make("GlobalAveragePool", ["e"], ["pooled"], name="pool"),
        make("Flatten", ["pooled"], ["flat"], name="flatten"),
        make("Gemm", ["flat", "head", "head_bias"], ["logits"], name="gemm"),
    ]
    values = {name: draw.normal(0, 1 / np.sqrt(np.prod(shape[1:]) or 1), shape) for name, shape in shapes.items()}
    graph = helper.make_graph(
        nodes,
        "core",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["images", 3, height, width])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["images", 3])],
        [onnx.numpy_helper.from_array(value.astype(np.float32), name) for name, value in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def draw(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return a smooth coloured photo, RGB."""
    corners = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(corners).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def cores() -> dict[str, bytes]:
    """Return the serialized core graphs by precision."""
    ranges = pytest.importorskip("edgetl.quantize.ranges", reason="onnxruntime's tools quantize the graph")
    by_onnxruntime = pytest.importorskip("edgetl.quantize.by_onnxruntime")
    model = network()
    photos = [np.stack([draw(SIDE, SIDE, 10 * batch + one) for one in range(8)]) for batch in range(4)]
    recipe = load_recipe("minmax").model_copy(update={"reduce_range": True})
    int8 = by_onnxruntime.quantize_graph(network(), ranges.calibrate(network(), photos, recipe), recipe)
    return {"fp32": model.SerializeToString(), "int8": int8.SerializeToString()}


def how(fit: Any = "squash", crop_share: float = 1.0, border: Border | None = None) -> Preprocess:
    """Return a preprocessing whose image with the border is of the network's size."""
    border = border or Border(top=1, left=1, bottom=1, right=1)
    side = SIDE - border.top - border.bottom
    return Preprocess(side=side, fit=fit, crop_share=crop_share, mean=MEAN, std=(58.4, 57.1, 57.4), border=border)


def read(made: Compiled) -> Any:
    return the_core("test").read_model(made.content.graph, made.content.weights)


def runner(model: Any) -> Callable[[np.ndarray], FloatArray]:
    """Return a function that runs the model's only input to its only output, in float32 where not in INT8."""
    engine = the_core("test").compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: np.array(engine(np.ascontiguousarray(images))[0])


class TestWhatIsSaved:
    def test_int8_weights_take_a_quarter(self, cores: dict[str, bytes]) -> None:
        sizes = {precision: len(compile_graph(core).content.weights or b"") for precision, core in cores.items()}
        weights, channels = 16 * 27 + 16 * 9 + 256 * 16, 16 + 16 + 256
        # A channel has the scale of its weights, and its bias with the scale of that.
        assert sizes["fp32"] - sizes["int8"] > 3 * weights - 3 * 4 * channels

    def test_the_weights_of_an_int8_graph_are_int8(self, cores: dict[str, bytes]) -> None:
        constants = [
            node for node in read(compile_graph(cores["int8"])).get_ops() if node.get_type_name() == "Constant"
        ]
        shapes = [tuple(each.shape) for each in constants if each.get_element_type() == openvino.Type.i8]
        assert {(16, 3, 3, 3), (256, 16, 1, 1)} <= set(shapes)
        # Scales and biases, and the head, which is not quantized.
        floats = {each.data.size for each in constants if each.get_element_type() == openvino.Type.f32}
        assert floats <= {1, 3, 16, 256, 768}

    def test_no_node_computes_a_shape(self, cores: dict[str, bytes]) -> None:
        for core in cores.values():
            operators = Counter(node.get_type_name() for node in read(compile_graph(core)).get_ops())
            assert not {"ShapeOf", "Broadcast", "VariadicSplit"} & set(operators)

    @pytest.mark.skipif(platform.machine() not in {"x86_64", "AMD64"}, reason="other CPUs run INT8 their own way")
    @pytest.mark.parametrize("with_info", [False, True])
    def test_every_convolution_of_an_int8_graph_runs_in_int8(self, with_info: bool, cores: dict[str, bytes]) -> None:
        made = compile_graph(cores["int8"], ModelInfo(labels=LABELS, preprocess=how()) if with_info else None)
        for model in (read(made), take_images(read(made), made.input)):
            nodes = the_core("test").compile_model(model, "CPU").get_runtime_model().get_ops()
            said = [node.get_rt_info() for node in nodes]
            ran = Counter(
                each["runtimePrecision"].astype(str) for each in said if each["layerType"].astype(str) == "Convolution"
            )
            assert set(ran) <= {"u8", "i8"}
            assert ran.total() == 3

    @pytest.mark.parametrize("precision", ["fp32", "int8"])
    def test_it_answers_as_the_core_graph(self, precision: str, cores: dict[str, bytes]) -> None:
        runtime = pytest.importorskip("onnxruntime", reason="onnxruntime runs the core graph")
        options = runtime.SessionOptions()
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        core = runtime.InferenceSession(cores[precision], options, providers=["CPUExecutionProvider"])
        images = np.stack([draw(SIDE, SIDE, seed) for seed in range(8)])
        planes = (images.transpose(0, 3, 1, 2) / np.float32(255)).astype(np.float32)
        expected = core.run(None, {"image": planes})[0]
        found = runner(read(compile_graph(cores[precision])))(images)
        # In INT8 a tie that is rounded the other way moves a logit by part of a step.
        assert np.abs(found - expected).max() < np.abs(expected).max() * (1e-4 if precision == "fp32" else 2e-2)


class TestSameAgain:
    @pytest.mark.parametrize("precision", ["fp32", "int8"])
    def test_the_same_graph_gives_the_same_files_whatever_was_made_before(
        self, precision: str, cores: dict[str, bytes]
    ) -> None:
        info = ModelInfo(labels=LABELS, preprocess=how("pad"))
        first = compile_graph(cores[precision], info).content
        compile_graph(cores["fp32"])
        assert compile_graph(cores[precision], info).content == first


class TestRefusals:
    def test_what_openvino_cannot_read_is_an_error(self) -> None:
        with pytest.raises(ExportError, match=r"OpenVINO .* cannot read the graph: "):
            compile_graph(b"junk")

    def test_a_graph_of_two_outputs_is_refused(self) -> None:
        model = network()
        model.graph.output.append(helper.make_tensor_value_info("pooled", onnx.TensorProto.FLOAT, None))
        with pytest.raises(ExportError, match=r"a core graph has one input and one output, found 1 and 2"):
            compile_graph(model.SerializeToString())

    def test_a_graph_that_reads_no_planes_of_rgb_is_refused(self) -> None:
        graph = helper.make_graph(
            [helper.make_node("Relu", ["image"], ["logits"])],
            "core",
            [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["images", 1, 8, 8])],
            [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["images", 1, 8, 8])],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
        message = r"a core graph reads \(images, 3, height, width\), found \(-1, 1, 8, 8\)"
        with pytest.raises(ExportError, match=message):
            compile_graph(model.SerializeToString())


def test_the_reason_is_said_without_the_noise_around_it() -> None:
    import onnx

    make = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("NoSuchOperator", ["image"], ["logits"])],
        "odd",
        [make("image", onnx.TensorProto.FLOAT, ["images", 3, 4, 4])],
        [make("logits", onnx.TensorProto.FLOAT, ["images", 3])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)])
    with pytest.raises(ExportError, match="No conversion rule found for operations: NoSuchOperator") as caught:
        compile_graph(model.SerializeToString())
    assert "http" not in str(caught.value)
    assert "Exception from" not in str(caught.value)
