"""Tests of edgetl/export/foreign.py: which classifiers trained elsewhere are refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edgetl.errors import GraphError
from edgetl.export import InputSpec, read_foreign
from tests.export.test_adopt import (
    MEAN,
    SIDE,
    SPEC,
    adopted,
    answers,
    assert_same,
    network,
    photos,
    pytestmark,
    save,
    write,
)

__all__ = ["pytestmark"]


def quantized(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("QuantizeLinear", ["input", "scale", "zero"], ["q"]))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(1), "scale"))
    model.graph.initializer.append(numpy_helper.from_array(np.uint8(0), "zero"))


def nan(model: onnx.ModelProto) -> None:
    tensor = next(each for each in model.graph.initializer if len(each.dims) == 4)
    values = numpy_helper.to_array(tensor).copy()
    values[0, 0, 0, 0] = np.nan
    tensor.CopyFrom(numpy_helper.from_array(values, "first.weight"))
    next(node for node in model.graph.node if node.op_type == "Conv").input[1] = "first.weight"


def two_outputs(model: onnx.ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, ["batch", 3]))
    model.graph.node.append(helper.make_node("Relu", ["output"], ["more"]))


def bytes_in(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8


def halves_in(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16


def halves_inside(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.float16([1]), "half"))


def one_channel(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1


def oblong(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 2 * SIDE


def sigmoid(model: onnx.ModelProto) -> None:
    made = next(node for node in model.graph.node if node.output[0] == "output")
    made.output[0] = "logits"
    model.graph.node.append(helper.make_node("Sigmoid", ["logits"], ["output"]))


def any_size(model: onnx.ModelProto) -> None:
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = "any"


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (quantized, r"is quantized already \(it holds Q/DQ\).*give the float graph"),
            (nan, r"the weights first\.weight hold a NaN or an infinity"),
            (two_outputs, r"reads input and gives output, more, but a classifier"),
            (bytes_in, r"reads uint8 of shape .*, but photos come as float"),
            (halves_in, r"holds numbers of float16\. .* against float32: export it in that"),
            (halves_inside, r"holds numbers of float16\. .* against float32: export it in that"),
            (one_channel, r"reads float of shape \(-1, 1, 32, 32\), but photos"),
            (sigmoid, r"ends in a Sigmoid, so it says of each class whether it is there.*up to its logits"),
            (oblong, r"reads photos of 64x32, but edgetl fits photos to squares"),
            (any_size, r"does not say how large its photos are\. Say --image-size"),
        ],
        ids=lambda each: getattr(each, "__name__", None),
    )
    def test_what_cannot_be_built_from_is_said(
        self, change: Callable[[onnx.ModelProto], None], said: str, tmp_path: Path
    ) -> None:
        model = onnx.load(write(tmp_path, network()))
        change(model)
        with pytest.raises(GraphError, match=rf"theirs\.onnx: {said}"):
            read_foreign(save(tmp_path, model), SPEC)

    def test_a_size_that_the_graph_leaves_open_is_the_users(self, tmp_path: Path) -> None:
        model = onnx.load(write(tmp_path, network()))
        any_size(model)
        spec = replace(SPEC, side=SIDE)
        assert_same(adopted(save(tmp_path, model), photos(), spec), answers(network(), photos()))

    def test_another_size_than_the_graphs_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(GraphError, match="reads photos of 32x32, but --image-size is 64"):
            read_foreign(write(tmp_path, network()), replace(SPEC, side=64))

    def test_a_graph_that_does_not_say_how_pixels_are_normalised_asks_for_it(self, tmp_path: Path) -> None:
        with pytest.raises(GraphError, match=r"how its pixels are normalised\. Say --mean and --std"):
            read_foreign(write(tmp_path, network()), InputSpec())

    def test_a_range_that_is_not_known_asks_for_it(self, tmp_path: Path) -> None:
        path = write(tmp_path, network(), **{"Image.NominalPixelRange": "NominalRange_16_235"})
        with pytest.raises(GraphError, match=r"NominalRange_16_235, is not known here\. Say --mean and --std"):
            read_foreign(path, InputSpec())
        assert read_foreign(path, SPEC).mean == MEAN

    def test_weights_in_a_file_that_is_not_beside_it_are_asked_for(self, tmp_path: Path) -> None:
        model = onnx.load(write(tmp_path, network()))
        onnx.save(model, tmp_path / "apart.onnx", save_as_external_data=True, location="apart.data", size_threshold=0)
        whole = read_foreign(tmp_path / "apart.onnx", SPEC)
        np.testing.assert_array_equal(whole.model.graph.initializer[0].dims, model.graph.initializer[0].dims)
        (tmp_path / "apart.data").unlink()
        message = r"apart\.onnx: its weights lie in apart\.data, which is not beside it\. Put that there too"
        with pytest.raises(GraphError, match=message):
            read_foreign(tmp_path / "apart.onnx", SPEC)

    def test_a_file_that_is_not_there_or_not_onnx_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(GraphError, match=r"gone\.onnx: no such file"):
            read_foreign(tmp_path / "gone.onnx", SPEC)
        (tmp_path / "text.onnx").write_text("not a graph")
        with pytest.raises(GraphError, match=r"text\.onnx: cannot be read as ONNX: \S"):
            read_foreign(tmp_path / "text.onnx", SPEC)

    def test_a_network_that_gives_no_classes_is_refused(self, tmp_path: Path) -> None:
        path = write(tmp_path, network(nn.Upsample(scale_factor=2)))
        with pytest.raises(GraphError, match=r"gives shape \(-1, 8, 2, 2\), but a classifier gives \(images"):
            read_foreign(path, SPEC)
