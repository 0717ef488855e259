"""Tests of edgetl/compile/for_openvino.py: what is saved, and that an IR makes of photos what edgetl makes of them."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgetl.compile import Compiled, ModelInfo
from edgetl.compile.for_openvino import compile_graph, take_images
from edgetl.compile.openvino_core import the_core
from edgetl.errors import ExportError
from edgetl.recipe import load_recipe
from edgetl.records import Border, FloatArray, Preprocess, TensorSpec
from edgetl.runtime import open_photo, preprocess, softmax

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


def inner(model: Any, name: str = "image") -> Any:
    """Return the model up to a tensor within."""
    found = next(port for node in model.get_ordered_ops() for port in node.outputs() if name in port.names)
    return openvino.Model([found], model.get_parameters())


def bgr(*photos: np.ndarray) -> np.ndarray:
    return np.stack(photos)[..., ::-1]


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


@pytest.mark.parametrize("precision", ["fp32", "int8"])
class TestTakeImages:
    def test_it_answers_as_an_ir_that_never_read_photos(self, precision: str, cores: dict[str, bytes]) -> None:
        plain = compile_graph(cores[precision])
        made = compile_graph(cores[precision], ModelInfo(labels=LABELS, preprocess=how()))
        assert (made.input, made.output) == (plain.input, plain.output)
        taken = take_images(read(made), made.input)
        images = np.stack([draw(SIDE, SIDE, seed) for seed in range(5)])
        first, second = runner(read(plain)), runner(taken)
        for count in (1, 5):
            np.testing.assert_array_equal(second(images[:count]), first(images[:count]))

    def test_it_begins_at_the_image_and_nowhere_else(self, precision: str, cores: dict[str, bytes]) -> None:
        made = compile_graph(cores[precision], ModelInfo(labels=LABELS, preprocess=how("pad")))
        model = take_images(read(made), made.input)
        assert [port.any_name for port in model.inputs] == ["image"]
        assert str(model.input().partial_shape) == f"[?,{SIDE},{SIDE},3]"
        assert model.output().names == {"logits"}
        assert not {"Interpolate", "Pad"} & {node.get_type_name() for node in model.get_ops()}

    def test_what_begins_there_or_has_no_such_tensor_stays(self, precision: str, cores: dict[str, bytes]) -> None:
        plain = compile_graph(cores[precision])
        model = read(plain)
        before = len(model.get_ops())
        assert take_images(model, plain.input) is model
        assert take_images(model, TensorSpec(name="view", dtype="uint8", shape=(-1, SIDE, SIDE, 3))) is model
        assert ([port.any_name for port in model.inputs], len(model.get_ops())) == (["image"], before)


BORDERS = {"none": Border(), "all round": Border(top=1, left=1, bottom=1, right=1), "top left": Border(top=2, left=2)}
SIZES = [(480, 640), (97, 33), (SIDE, SIDE), (200, 40), (1, 1)]


class TestPhotos:
    def taken(self, core: bytes, made_how: Preprocess) -> tuple[Any, Any]:
        made = compile_graph(core, ModelInfo(labels=LABELS, preprocess=made_how))
        return read(made), made

    def test_the_input_is_a_photo_of_any_size(self, cores: dict[str, bytes]) -> None:
        model, _ = self.taken(cores["fp32"], how())
        (port,) = model.inputs
        assert (port.names, port.element_type, str(port.partial_shape)) == ({"photo"}, openvino.Type.u8, "[?,?,?,3]")
        assert openvino.layout_helpers.get_layout(port) == openvino.Layout("NHWC")

    @pytest.mark.parametrize("border", BORDERS)
    @pytest.mark.parametrize(("fit", "share"), [("squash", 1.0), ("pad", 1.0), ("crop", 1.0), ("crop", 0.875)])
    def test_images_are_made_as_edgetl_makes_them(
        self, fit: str, share: float, border: str, cores: dict[str, bytes]
    ) -> None:
        wanted = how(fit, share, BORDERS[border])
        run = runner(inner(self.taken(cores["fp32"], wanted)[0]))
        for height, width in SIZES:
            photo = draw(height, width)
            expected = preprocess(Image.fromarray(photo), wanted)
            (found,) = run(bgr(photo))
            assert (found.shape, found.dtype) == (expected.shape, np.uint8)
            apart = np.abs(found.astype(int) - expected)
            # A cut has its edges at whole pixels, and its filter ends there.
            assert apart.max() <= (12 if fit == "crop" else 2)
            assert apart.mean() < (2 if fit == "crop" else 0.3)

    @pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
    def test_what_is_outside_the_photo_has_exactly_the_mean_colour(self, fit: str, cores: dict[str, bytes]) -> None:
        wanted = how(fit)
        (found,) = runner(inner(self.taken(cores["fp32"], wanted)[0]))(bgr(draw(64, 32)))
        outside = np.ones((SIDE, SIDE), bool)
        left = 8 if fit == "pad" else 0
        outside[1:-1, 1 + left : SIDE - 1 - left] = False
        assert (found[outside] == MEAN).all()

    def test_a_photo_that_fits_is_not_touched(self, cores: dict[str, bytes]) -> None:
        for fit in ("squash", "crop", "pad"):
            wanted = how(fit)
            photo = np.random.default_rng(1).integers(0, 256, (wanted.side, wanted.side, 3), dtype=np.uint8)
            (found,) = runner(inner(self.taken(cores["fp32"], wanted)[0]))(bgr(photo))
            np.testing.assert_array_equal(found[1:-1, 1:-1], photo)

    @pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
    def test_photos_that_come_together_are_answered_as_alone(self, fit: str, cores: dict[str, bytes]) -> None:
        run = runner(self.taken(cores["fp32"], how(fit))[0])
        photos = [draw(50, 70, seed) for seed in range(3)]
        alone = np.concatenate([run(bgr(photo)) for photo in photos])
        np.testing.assert_allclose(run(bgr(*photos)), alone, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("precision", ["fp32", "int8"])
    def test_the_answer_is_that_of_the_image(self, precision: str, cores: dict[str, bytes]) -> None:
        model, made = self.taken(cores[precision], how("pad"))
        photo = draw(90, 120)
        (image,) = runner(inner(read(made)))(bgr(photo))
        expected = runner(take_images(read(made), made.input))(image[None])
        np.testing.assert_allclose(runner(model)(bgr(photo)), expected, rtol=1e-4, atol=1e-4)


class TestModelInfo:
    def test_the_ir_says_how_it_is_to_be_used(self, cores: dict[str, bytes]) -> None:
        model = read(compile_graph(cores["fp32"], ModelInfo(labels=LABELS, preprocess=how())))
        said = {
            key: model.get_rt_info(["model_info", key]).astype(str) for key in model.get_rt_info("model_info").value
        }
        assert said == {
            "model_type": "Classification",
            "embedded_processing": "True",
            "orig_height": str(SIDE),
            "orig_width": str(SIDE),
            "labels": "red_apple banana cherry_&_co",
            "output_raw_scores": "True",
        }

    def test_an_ir_without_it_says_nothing(self, cores: dict[str, bytes]) -> None:
        assert not read(compile_graph(cores["fp32"])).has_rt_info(["model_info", "model_type"])

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (LABELS[:2], r"the graph tells 3 classes apart, but has 2 labels"),
            ((*LABELS, "date"), r"the graph tells 3 classes apart, but has 4 labels"),
            (("apple", " \t", "cherry"), r"label 1 is blank, and Model API would skip it\. Name it"),
        ],
    )
    def test_labels_that_do_not_fit_are_refused(
        self, labels: tuple[str, ...], message: str, cores: dict[str, bytes]
    ) -> None:
        with pytest.raises(ExportError, match=message):
            compile_graph(cores["fp32"], ModelInfo(labels=labels, preprocess=how()))

    def test_a_preprocessing_of_another_size_is_refused(self, cores: dict[str, bytes]) -> None:
        other = how().model_copy(update={"border": Border(top=1)})
        message = r"the graph reads images of 34x34, but the preprocessing makes 33x32"
        with pytest.raises(ExportError, match=message):
            compile_graph(cores["fp32"], ModelInfo(labels=LABELS, preprocess=other))

    @pytest.mark.filterwarnings("ignore")  # those of its own imports
    @pytest.mark.parametrize("precision", ["fp32", "int8"])
    @pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
    def test_model_api_answers_as_edgetl_with_nothing_but_the_file(
        self, fit: str, precision: str, cores: dict[str, bytes], tiny_photos: tuple[Path, ...], tmp_path: Path
    ) -> None:
        models = pytest.importorskip("model_api.models", reason="needs OpenVINO's Model API (openvino_model_api)")
        cv2 = pytest.importorskip("cv2", reason="needs OpenCV, which Model API's photos come from")
        made = compile_graph(cores[precision], ModelInfo(labels=LABELS, preprocess=how(fit)))
        (tmp_path / "model.xml").write_bytes(made.content.graph)
        (tmp_path / "model.bin").write_bytes(made.content.weights or b"")
        model = models.ClassificationModel.create_model(
            str(tmp_path / "model.xml"), device="CPU", core=the_core("test")
        )
        run = runner(take_images(read(made), made.input))
        for path in tiny_photos:
            expected = softmax(run(preprocess(open_photo(path), how(fit))[None])[0])
            answer = model(cv2.imread(str(path)))
            np.testing.assert_allclose(np.ravel(answer.raw_scores), expected, atol=0.03)
            assert answer.top_labels[0].name == "_".join(LABELS[int(expected.argmax())].split())


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
