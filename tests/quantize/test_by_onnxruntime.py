"""Tests of edgetl/quantize/by_onnxruntime.py."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edgetl.errors import CalibrationError
from edgetl.export import export_graph
from edgetl.quantize import calibrate
from edgetl.quantize.by_onnxruntime import quantize_graph
from edgetl.recipe import CalibrationRecipe, load_recipe, recipe_names
from edgetl.records import FloatArray, ImageArray, Preprocess

SIDE = 32
MINMAX = load_recipe("minmax")


def draw(count: int, seed: int = 0) -> ImageArray:
    """Return images of coloured blocks with noise."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 256, (count, 4, 4, 3)).repeat(8, axis=1).repeat(8, axis=2)
    return (blocks + random.integers(-20, 21, blocks.shape)).clip(0, 255).astype(np.uint8)


def largest_pair(quantized: onnx.ModelProto, *left_out: str) -> int:
    """Return the most that two weights of a channel come to that stand side by side, channels last."""
    arrays = [array for name, array in weights_of(quantized).items() if name not in left_out]
    rows = [np.abs(np.moveaxis(array.astype(int), 1, -1)).reshape(len(array), -1) for array in arrays]
    return max(int((row[:, 1:] + row[:, :-1]).max()) for row in rows)


def network(second: float = 1.0) -> onnx.ModelProto:
    """Return a core graph of two branches, the second's activations `second` times as large, and 3 classes."""
    random = np.random.default_rng(6)

    def drawn(name: str, shape: tuple[int, ...], scale: float = 1.0) -> onnx.TensorProto:
        values = random.normal(0, scale / np.sqrt(np.prod(shape[1:])), shape)
        return numpy_helper.from_array(values.astype(np.float32), name)

    make = helper.make_node
    graph = helper.make_graph(
        [
            make("Conv", ["image", "stem", "stem_bias"], ["stem_out"], strides=[2, 2], pads=[1, 1, 1, 1]),
            make("Relu", ["stem_out"], ["stem_kept"]),
            make("Conv", ["stem_kept", "left", "left_bias"], ["left_out"]),
            make("Relu", ["left_out"], ["left_kept"]),
            make("Conv", ["stem_kept", "right"], ["right_out"]),
            make("Relu", ["right_out"], ["right_kept"]),
            make("Concat", ["left_kept", "right_kept"], ["both"], axis=1),
            make("Conv", ["both", "mix"], ["mixed"]),
            make("GlobalAveragePool", ["mixed"], ["pooled"]),
            make("Flatten", ["pooled"], ["flat"]),
            make("Gemm", ["flat", "head", "head_bias"], ["logits"], transB=1),
        ],
        "core",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["images", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["images", 3])],
        [
            drawn("stem", (8, 3, 3, 3), 3.0),
            drawn("stem_bias", (8,)),
            drawn("left", (8, 8, 1, 1), 2.0),
            drawn("left_bias", (8,)),
            drawn("right", (8, 8, 1, 1), 2.0 * second),
            drawn("mix", (8, 16, 1, 1), 2.0),
            drawn("head", (3, 8), 4.0),
            drawn("head_bias", (3,)),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def batches(count: int = 4) -> list[ImageArray]:
    return [draw(8, seed) for seed in range(count)]


def run(model: onnx.ModelProto, images: ImageArray, fused: bool = False) -> FloatArray:
    """Return the logits; without fusing, the arithmetic between Q/DQ pairs is done in float and so exact."""
    options = onnxruntime.SessionOptions()
    if not fused:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    shares = images.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    logits: FloatArray = session.run(["logits"], {"image": shares})[0]
    return logits


def quantize(model: onnx.ModelProto, images: Iterable[ImageArray], recipe: CalibrationRecipe) -> onnx.ModelProto:
    """Return the INT8 graph of a network calibrated on these batches."""
    return quantize_graph(model, calibrate(model, images, recipe), recipe)


def quantization_of(model: onnx.ModelProto, name: str) -> tuple[float, int]:
    """Return scale and zero point of the activation of that name."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    node = next(node for node in model.graph.node if node.op_type == "QuantizeLinear" and node.input[0] == name)
    return float(stored[node.input[1]]), int(stored[node.input[2]])


def weights_of(model: onnx.ModelProto, dtype: Any = np.int8) -> dict[str, np.ndarray]:
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {name: array for name, array in arrays.items() if array.dtype == dtype and array.ndim > 1}


class TestTheImage:
    @pytest.mark.parametrize("method", recipe_names())
    def test_its_bytes_are_the_first_quantized_activation_whatever_was_seen(self, method: str) -> None:
        dark = [images // 4 for images in batches(2)]
        scale, zero_point = quantization_of(quantize(network(), dark, load_recipe(method)), "image")
        assert (np.float32(scale), zero_point) == (np.float32(1 / 255), 0)

    def test_input_and_output_stay_float(self) -> None:
        graph = quantize(network(), batches(1), MINMAX).graph
        border = [(each.name, each.type.tensor_type.elem_type) for each in (*graph.input, *graph.output)]
        assert border == [("image", TensorProto.FLOAT), ("logits", TensorProto.FLOAT)]


class TestTheGraph:
    @pytest.mark.parametrize("method", recipe_names())
    def test_every_method_answers_about_as_the_float_graph(self, method: str) -> None:
        quantized = quantize(network(), batches(), load_recipe(method))
        expected = run(network(), draw(16, 99))
        found = run(quantized, draw(16, 99))
        assert np.isfinite(found).all()
        assert np.abs(found - expected).mean() <= 0.05 * np.abs(expected).max()
        assert np.abs(found - expected).max() > 0  # else nothing was quantized

    def test_every_convolution_has_weights_of_8_bits_and_the_file_is_valid(self) -> None:
        quantized = quantize(network(), batches(1), MINMAX)
        onnx.checker.check_model(quantized, full_check=True)
        assert {array.shape for array in weights_of(quantized).values()} == {
            (8, 3, 3, 3),
            (8, 8, 1, 1),
            (8, 16, 1, 1),
            (3, 8),
        }

    def test_the_float_graph_is_left_as_it_was(self) -> None:
        model = network()
        before = model.SerializeToString(deterministic=True)
        quantize(model, batches(1), MINMAX)
        assert model.SerializeToString(deterministic=True) == before

    def test_the_same_photos_give_the_same_bytes(self) -> None:
        first, second = (quantize(network(), batches(2), MINMAX) for _ in range(2))
        assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)

    def test_how_photos_are_batched_does_not_matter_for_the_full_range(self) -> None:
        images = np.concatenate(batches())
        together, one_by_one = (
            quantize(network(), parts, MINMAX) for parts in ([images], [image[None] for image in images])
        )
        assert together.SerializeToString(deterministic=True) == one_by_one.SerializeToString(deterministic=True)

    def test_every_batch_is_taken_once(self) -> None:
        taken = []

        def once() -> Iterator[ImageArray]:
            for index, images in enumerate(batches(3)):
                taken.append(index)
                yield images

        quantize(network(), once(), MINMAX)
        assert taken == [0, 1, 2]

    def test_per_channel_weights_are_closer_than_per_tensor_ones(self) -> None:
        model = network()
        stem = next(tensor for tensor in model.graph.initializer if tensor.name == "stem")
        uneven = numpy_helper.to_array(stem) * np.geomspace(0.01, 1, 8, dtype=np.float32).reshape(8, 1, 1, 1)
        stem.CopyFrom(numpy_helper.from_array(uneven, "stem"))
        expected = run(model, draw(16, 99))
        errors = {
            per_channel: np.abs(
                run(quantize(model, batches(), recipe(per_channel=per_channel)), draw(16, 99)) - expected
            ).mean()
            for per_channel in (True, False)
        }
        assert errors[True] < errors[False]

    def test_a_reduced_range_leaves_sums_of_two_room_and_fast_kernels_exact(self) -> None:
        quantized = quantize(network(), batches(), recipe(reduce_range=True))
        assert largest_pair(quantized) <= 128
        # More than the 7 bits that would do as well.
        assert max(int(np.abs(array.astype(int)).max()) for array in weights_of(quantized).values()) > 64
        images = draw(16, 99)
        exact = run(quantized, images)
        np.testing.assert_allclose(run(quantized, images, fused=True), exact, atol=1e-5 * np.abs(exact).max())

    def test_depthwise_weights_keep_8_bits_and_fast_kernels_are_exact(self) -> None:
        model = network()
        left = next(node for node in model.graph.node if node.input[1:2] == ["left"])
        left.attribute.extend([helper.make_attribute("group", 8), helper.make_attribute("pads", [1, 1, 1, 1])])
        weights = np.random.default_rng(0).normal(0, 1, (8, 1, 3, 3)).astype(np.float32)
        next(tensor for tensor in model.graph.initializer if tensor.name == "left").CopyFrom(
            numpy_helper.from_array(weights, "left")
        )
        quantized = quantize(model, batches(), recipe(reduce_range=True))
        assert int(np.abs(weights_of(quantized)["left_quantized"].astype(int)).max()) == 127
        assert largest_pair(quantized, "left_quantized") <= 128
        images = draw(16, 99)
        exact = run(quantized, images)
        np.testing.assert_allclose(run(quantized, images, fused=True), exact, atol=1e-5 * np.abs(exact).max())

    def test_the_tools_log_nothing_and_leave_logging_as_it_was(self, caplog: pytest.LogCaptureFixture) -> None:
        quantize(network(), batches(1), MINMAX)
        assert not caplog.records
        logging.getLogger("anyone").error("still heard")
        assert [record.message for record in caplog.records] == ["still heard"]

    def test_what_brings_the_photos_may_print_meanwhile(self, capsys: pytest.CaptureFixture[str]) -> None:
        def told() -> Iterator[ImageArray]:
            sys.stdout.write("a batch\n")
            yield from batches(1)

        quantize(network(), told(), MINMAX)
        assert capsys.readouterr().out == "a batch\n"

    @pytest.mark.parametrize("method", recipe_names())
    def test_nothing_is_printed_where_results_go(self, method: str, capsys: pytest.CaptureFixture[str]) -> None:
        quantize(network(), batches(1), load_recipe(method))
        assert capsys.readouterr().out == ""


def recipe(**changed: Any) -> CalibrationRecipe:
    return MINMAX.model_copy(update=changed)


class TestConcat:
    NAMES = ("left_kept", "right_kept", "both")

    def test_branches_of_near_ranges_share_one_scale(self) -> None:
        quantized = quantize(network(second=1.0), batches(), MINMAX)
        assert len({quantization_of(quantized, name) for name in self.NAMES}) == 1

    @pytest.mark.parametrize("second", [0.02, 50.0])
    def test_branches_of_far_ranges_keep_their_own(self, second: float) -> None:
        quantized = quantize(network(second), batches(), MINMAX)
        left, right = (quantization_of(quantized, name)[0] for name in self.NAMES[:2])
        assert max(left, right) / min(left, right) > 4

    @pytest.mark.parametrize("second", [0.02, 1.0, 50.0])
    def test_either_way_the_answer_is_about_the_same(self, second: float) -> None:
        expected = run(network(second), draw(16, 99))
        found = run(quantize(network(second), batches(), MINMAX), draw(16, 99))
        assert np.abs(found - expected).mean() <= 0.05 * np.abs(expected).max()


def averaged(axes: list[int], keeps: bool) -> onnx.ModelProto:
    """Return the network with a ReduceMean, as torch's exporter writes it, in place of its pooling."""
    model = network()
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.array(axes), "axes"))
    place = next(place for place, node in enumerate(graph.node) if node.op_type == "GlobalAveragePool")
    mean = helper.make_node("ReduceMean", ["mixed", "axes"], ["pooled"], name="mean", keepdims=int(keeps))
    graph.node[place].CopyFrom(mean)
    return model


def kernels_of(model: onnx.ModelProto, folder: Path) -> list[str]:
    """Return the operators that ONNX Runtime runs."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(folder / "fused.onnx"), 3
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(folder / "fused.onnx").graph.node]


class TestMeansOfPlanes:
    @pytest.mark.parametrize("axes", [[2, 3], [-1, -2]])
    @pytest.mark.parametrize("keeps", [True, False])
    def test_they_run_on_an_integer_kernel_and_mean_the_same(
        self, axes: list[int], keeps: bool, tmp_path: Path
    ) -> None:
        model = averaged(axes, keeps)
        quantized = quantize(model, batches(), MINMAX)
        onnx.checker.check_model(quantized, full_check=True)
        pooled = quantize(network(), batches(), MINMAX)
        assert run(quantized, draw(16, 99)) == pytest.approx(run(pooled, draw(16, 99)), abs=1e-5)
        assert "QLinearGlobalAveragePool" in kernels_of(quantized, tmp_path)
        assert "ReduceMean" not in kernels_of(quantized, tmp_path)
        assert [node.op_type for node in model.graph.node].count("ReduceMean") == 1

    @pytest.mark.parametrize("float_layers", [[], ["mean"]])
    def test_they_stay_in_float_by_their_own_name(self, float_layers: list[str]) -> None:
        model = averaged([2, 3], keeps=False)
        graph = quantize_graph(model, calibrate(model, batches(1), MINMAX), MINMAX, float_layers).graph
        read = {tensor for node in graph.node if node.op_type == "QuantizeLinear" for tensor in node.input[:1]}
        assert ("pooled_planes" in read) == (not float_layers)

    def test_pooling_that_torch_exports_as_a_mean_is_one_of_them(self, tmp_path: Path) -> None:
        module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
        how = Preprocess(side=SIDE, fit="squash", mean=(124, 116, 104), std=(58.4, 57.1, 57.4))
        exported = export_graph(module, how, "dynamo").model
        assert "ReduceMean" in [node.op_type for node in exported.graph.node]
        assert "QLinearGlobalAveragePool" in kernels_of(quantize(exported, batches(1), MINMAX), tmp_path)

    def test_a_mean_of_one_axis_is_left_alone(self) -> None:
        model = averaged([3], keeps=True)
        model.graph.node.insert(9, helper.make_node("ReduceMean", ["pooled", "rows"], ["rowed"], keepdims=1))
        model.graph.initializer.append(numpy_helper.from_array(np.array([2]), "rows"))
        model.graph.node[10].input[0] = "rowed"
        kinds = [node.op_type for node in quantize(model, batches(1), MINMAX).graph.node]
        assert kinds.count("ReduceMean") == 2 and "GlobalAveragePool" not in kinds


class TestRefusals:
    @pytest.mark.parametrize("method", recipe_names())
    def test_no_image_calibrates_nothing(self, method: str) -> None:
        with pytest.raises(CalibrationError, match="no image came to calibrate with"):
            quantize(network(), [], load_recipe(method))

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    @pytest.mark.parametrize("method", recipe_names())
    def test_activations_that_are_not_finite_have_no_range(self, method: str, bad: float) -> None:
        model = network()
        left = next(tensor for tensor in model.graph.initializer if tensor.name == "left")
        values = numpy_helper.to_array(left).copy()
        values[0, 0, 0, 0] = bad
        left.CopyFrom(numpy_helper.from_array(values, "left"))
        message = r"answers for calibration images 1 to \d+ are not finite, so its activations have no range"
        with pytest.raises(CalibrationError, match=message):
            quantize(model, batches(1), load_recipe(method))

    @pytest.mark.parametrize("method", recipe_names())
    def test_an_activation_that_overflows_on_the_way_has_no_range(self, method: str) -> None:
        model = network()
        stem = next(tensor for tensor in model.graph.initializer if tensor.name == "stem")
        stem.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(stem) * np.float32(1e38), "stem"))
        reader = next(node for node in model.graph.node if "stem" in node.input)
        raw = f"{reader.output[0]}_raw"
        clip = helper.make_node("Clip", [raw, "low", "high"], [reader.output[0]], "clip")
        reader.output[0] = raw
        model.graph.node.insert(list(model.graph.node).index(reader) + 1, clip)
        for name, bound in (("low", 0), ("high", 6)):
            model.graph.initializer.append(numpy_helper.from_array(np.float32(bound), name))
        assert np.isfinite(run(model, draw(16))).all()
        with pytest.raises(CalibrationError, match=r"activations .*have no range"):
            quantize(model, batches(1), load_recipe(method))
