"""Tests of edgetl/export/foreign.py and edgetl/export/adopt.py: classifiers that were trained elsewhere."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edgetl.errors import GraphError
from edgetl.export import CoreSession, Looks, adopt_graph, read_foreign
from edgetl.records import FloatArray, ImageArray
from edgetl.runtime import paint_border

pytestmark = [
    pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript-based ONNX export:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The feature will be removed:DeprecationWarning"),
]

SIDE = 32
# Whole 255ths, so that folding is exact.
MEAN, STD = (124 / 255, 116 / 255, 104 / 255), (0.229, 0.224, 0.225)
LOOKS = Looks(mean=MEAN, std=STD, fit="squash")
EXACT = 1e-5


def network(*last: nn.Module) -> nn.Sequential:
    """Return a network of 3 classes, the same at each call, its BatchNorm far from the identity."""
    torch.manual_seed(1)
    made = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        *(last or (nn.Flatten(), nn.Linear(8, 3))),
    )  # fmt: skip
    nn.init.uniform_(made[1].running_mean, -1.0, 1.0)  # type: ignore[arg-type]
    nn.init.uniform_(made[1].running_var, 0.5, 2.0)  # type: ignore[arg-type]
    return made.eval()


def write(folder: Path, module: nn.Module, opset: int = 17, free: bool = True, **metadata: str) -> Path:
    """Return the file that a user's own export gives."""
    content = io.BytesIO()
    axes = {"input": {0: "batch"}, "output": {0: "batch"}} if free else None
    torch.onnx.export(
        module, (torch.zeros(1, 3, SIDE, SIDE),), content, dynamo=False, opset_version=opset, input_names=["input"],
        output_names=["output"], dynamic_axes=axes,
    )  # fmt: skip
    model = onnx.load_from_string(content.getvalue())
    for key, value in metadata.items():
        helper.set_model_props(model, {**{p.key: p.value for p in model.metadata_props}, key: value})
    return save(folder, model)


def save(folder: Path, model: onnx.ModelProto) -> Path:
    path = folder / "theirs.onnx"
    onnx.save(model, path)
    return path


def photos(count: int = 5) -> ImageArray:
    return np.random.default_rng(3).integers(0, 256, (count, SIDE, SIDE, 3)).astype(np.uint8)


def answers(module: nn.Module, images: ImageArray) -> FloatArray:
    """Return what the module itself gives."""
    planes = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (MEAN, STD))
    with torch.inference_mode():
        logits: FloatArray = module((planes - mean) / std).reshape(len(images), -1).numpy()
    return logits


def adopted(path: Path, images: ImageArray, looks: Looks = LOOKS, way: Any = "folded") -> FloatArray:
    """Return what the core graph gives."""
    core = adopt_graph(read_foreign(path, looks), way)
    bordered = np.stack([paint_border(image, core.preprocess) for image in images])
    return CoreSession(core.model.SerializeToString()).run(bordered)


def assert_same(found: FloatArray, expected: FloatArray) -> None:
    assert np.abs(found - expected).max() <= EXACT * np.abs(expected).max()


def without_softmax(module: nn.Sequential) -> nn.Module:
    return nn.Sequential(*[layer for layer in module if not isinstance(layer, nn.Softmax)])


@pytest.mark.parametrize("way", ["folded", "explicit"])
@pytest.mark.parametrize("opset", [11, 13, 17, 19])
def test_the_core_graph_computes_what_the_network_does(opset: int, way: str, tmp_path: Path) -> None:
    path = write(tmp_path, network(), opset)
    expected = answers(network(), photos())
    assert_same(read_foreign(path, LOOKS).run(photos()), expected)
    assert_same(adopted(path, photos(), way=way), expected)


def test_a_graph_of_one_photo_at_a_time_takes_any_number(tmp_path: Path) -> None:
    module = network(nn.Flatten(), nn.Linear(8, 8), nn.Unflatten(1, (2, 4)), nn.Flatten(), nn.Linear(8, 3))
    path = write(tmp_path, module, free=False)
    assert any(node.op_type == "Reshape" for node in onnx.load(path).graph.node)
    assert_same(read_foreign(path, LOOKS).run(photos()), answers(module, photos()))
    assert_same(adopted(path, photos()), answers(module, photos()))


def test_probabilities_become_logits(tmp_path: Path) -> None:
    module = network(nn.Flatten(), nn.Linear(8, 3), nn.Softmax(dim=1))
    path = write(tmp_path, module)
    expected = answers(without_softmax(module), photos())
    assert_same(read_foreign(path, LOOKS).run(photos()), expected)
    assert_same(adopted(path, photos()), expected)


@pytest.mark.parametrize("behind", ["Identity", "Cast", "Flatten", "Transpose"])
def test_probabilities_become_logits_whatever_stands_behind(behind: str, tmp_path: Path) -> None:
    module = network(nn.Flatten(), nn.Linear(8, 3), nn.Softmax(dim=1))
    model = onnx.load(write(tmp_path, module))
    made = next(node for node in model.graph.node if node.op_type == "Softmax")
    made.output[0] = "sure"
    more = {"Cast": {"to": TensorProto.FLOAT}, "Transpose": {"perm": [0, 1]}}.get(behind, {})
    model.graph.node.append(helper.make_node(behind, ["sure"], ["output"], **more))
    expected = answers(without_softmax(module), photos())
    path = save(tmp_path, model)
    assert_same(read_foreign(path, LOOKS).run(photos()), expected)
    assert_same(adopted(path, photos()), expected)
    assert not {"Softmax", behind} & {
        node.op_type for node in adopt_graph(read_foreign(path, LOOKS), "folded").model.graph.node
    } - {"Flatten"}


def test_probabilities_that_come_from_elsewhere_are_refused(tmp_path: Path) -> None:
    class Shares(nn.Module):
        def forward(self, logits: torch.Tensor) -> torch.Tensor:
            powers = logits.exp()
            return powers / powers.sum(dim=1, keepdim=True)

    path = write(tmp_path, network(nn.Flatten(), nn.Linear(8, 3), Shares()))
    with pytest.raises(GraphError, match=r"gives probabilities, .* Export it up to its logits"):
        read_foreign(path, LOOKS).run(photos())


@pytest.mark.parametrize("free", [True, False])
def test_torchs_usual_export_serves(free: bool, tmp_path: Path) -> None:
    path = tmp_path / "dynamo.onnx"
    module = network(nn.Flatten(), nn.Linear(8, 8), nn.GELU(), nn.Unflatten(1, (2, 4)), nn.Flatten(), nn.Linear(8, 3))
    shapes = ({0: torch.export.Dim("batch")},) if free else None
    torch.onnx.export(
        module, (torch.zeros(2 if free else 1, 3, SIDE, SIDE),), path, dynamo=True, opset_version=20, verbose=False,
        dynamic_shapes=shapes, external_data=False,
    )  # fmt: skip
    assert any(node.op_type == "Gelu" for node in onnx.load(path).graph.node)
    assert_same(adopted(path, photos()), answers(module, photos()))


def test_old_files_that_list_their_weights_among_their_inputs_serve(tmp_path: Path) -> None:
    model = onnx.load(write(tmp_path, network(), opset=11))
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    model.ir_version = 3
    assert_same(adopted(save(tmp_path, model), photos()), answers(network(), photos()))


def test_classes_in_places_become_a_row(tmp_path: Path) -> None:
    module = network(nn.Conv2d(8, 3, 1))
    path = write(tmp_path, module)
    assert_same(adopted(path, photos()), answers(module, photos()))


def test_a_graph_that_reads_rows_gets_planes(tmp_path: Path) -> None:
    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return self.inner(rows.permute(0, 3, 1, 2))  # type: ignore[no-any-return]

    content = io.BytesIO()
    torch.onnx.export(
        Rows().eval(), (torch.zeros(1, SIDE, SIDE, 3),), content, dynamo=False, opset_version=17,
        input_names=["image"], output_names=["logits"], dynamic_axes={"image": {0: "n"}, "logits": {0: "n"}},
    )  # fmt: skip
    path = tmp_path / "rows.onnx"
    path.write_bytes(content.getvalue())
    assert_same(read_foreign(path, LOOKS).run(photos()), answers(network(), photos()))
    assert_same(adopted(path, photos()), answers(network(), photos()))
    # The two turns cancel out, so that the first convolution is the first layer again.
    core = adopt_graph(read_foreign(path, LOOKS), "folded").model
    assert core.graph.node[0].op_type == "Conv"


@pytest.mark.parametrize("way", ["folded", "explicit"])
def test_a_graph_that_reads_blue_first_gets_red_first(way: str, tmp_path: Path) -> None:
    looks = Looks(mean=MEAN[::-1], std=STD[::-1], fit="squash", channels="bgr")
    module = network()
    with torch.no_grad():
        module[0].weight.copy_(module[0].weight.flip(1))  # type: ignore[operator]
    path = write(tmp_path, module)
    expected = answers(network(), photos())
    assert_same(read_foreign(path, looks).run(photos()), expected)
    assert_same(adopted(path, photos(), looks, way), expected)


def test_batchnorm_and_constants_are_folded_away_and_every_node_has_a_name(tmp_path: Path) -> None:
    path = write(tmp_path, network())
    model = onnx.load(path)
    for node in model.graph.node:
        node.name = ""
    core = adopt_graph(read_foreign(save(tmp_path, model), LOOKS), "folded").model
    kinds = {node.op_type for node in core.graph.node}
    assert not kinds & {"BatchNormalization", "Constant", "Identity", "Sub", "Div"}
    assert len({node.name for node in core.graph.node} - {""}) == len(core.graph.node)


def test_tensors_that_have_our_names_already_are_no_hindrance(tmp_path: Path) -> None:
    model = onnx.load(write(tmp_path, network()))
    for node in model.graph.node:
        rename = {model.graph.node[0].output[0]: "image", model.graph.node[1].output[0]: "logits"}
        node.input[:] = [rename.get(name, name) for name in node.input]
    for node in model.graph.node[:2]:
        node.output[0] = {0: "image", 1: "logits"}[list(model.graph.node).index(node)]
    assert_same(adopted(save(tmp_path, model), photos()), answers(network(), photos()))


class TestMetadata:
    def test_onnxs_own_words_for_pixels_are_understood(self, tmp_path: Path) -> None:
        words = {"Image.NominalPixelRange": "Normalized_1_1", "Image.BitmapPixelFormat": "Bgr8"}
        found = read_foreign(write(tmp_path, network(), **words), Looks())
        assert (found.mean, found.std, found.channels) == ((0.5,) * 3, (0.5,) * 3, "bgr")

    def test_mean_and_std_may_be_named(self, tmp_path: Path) -> None:
        path = write(tmp_path, network(), mean="[0.1, 0.2, 0.3]", std="[1, 2, 3]")
        found = read_foreign(path, Looks())
        assert (found.mean, found.std) == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))

    def test_the_user_goes_before_the_file(self, tmp_path: Path) -> None:
        path = write(tmp_path, network(), mean="[0.1, 0.2, 0.3]", std="[1, 2, 3]")
        assert read_foreign(path, LOOKS).mean == MEAN

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("labels", '["a", "b", "c"]'),
            ("names", "{0: 'a', 1: 'b', 2: 'c'}"),
            ("classes", "('a', 'b', 'c')"),
            ("labels", "a\nb\nc"),
            ("labels", "a, b, c"),
            ("labels", '{"c": 2, "a": 0, "b": 1}'),
        ],
    )
    def test_labels_are_read(self, key: str, value: str, tmp_path: Path) -> None:
        assert read_foreign(write(tmp_path, network(), **{key: value}), LOOKS).labels == ("a", "b", "c")

    @pytest.mark.parametrize("value", ["one two", '["a", "b"]', "[1, 2, 3]", "{", '{"a": 0, "b": 1}', "{0: []}"])
    def test_labels_that_do_not_fit_ask_for_others(self, value: str, tmp_path: Path) -> None:
        path = write(tmp_path, network(), labels=value)
        with pytest.raises(
            GraphError, match=r"names classes in its metadata under 'labels', but not 3 of them .*--labels"
        ):
            read_foreign(path, LOOKS)
        assert read_foreign(path, LOOKS.model_copy(update={"labelled": True})).labels is None


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
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16


def one_channel(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1


def oblong(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 2 * SIDE


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
            (bytes_in, r"reads float16 of shape .*, but photos come as float"),
            (one_channel, r"reads float of shape \(-1, 1, 32, 32\), but photos"),
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
            read_foreign(save(tmp_path, model), LOOKS)

    def test_a_size_that_the_graph_leaves_open_is_the_users(self, tmp_path: Path) -> None:
        model = onnx.load(write(tmp_path, network()))
        any_size(model)
        looks = LOOKS.model_copy(update={"side": SIDE})
        assert_same(adopted(save(tmp_path, model), photos(), looks), answers(network(), photos()))

    def test_another_size_than_the_graphs_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(GraphError, match="reads photos of 32x32, but --image-size is 64"):
            read_foreign(write(tmp_path, network()), LOOKS.model_copy(update={"side": 64}))

    def test_a_graph_that_does_not_say_how_pixels_are_normalised_asks_for_it(self, tmp_path: Path) -> None:
        with pytest.raises(GraphError, match=r"how its pixels are normalised\. Say --mean and --std"):
            read_foreign(write(tmp_path, network()), Looks())

    def test_a_range_that_is_not_known_asks_for_it(self, tmp_path: Path) -> None:
        path = write(tmp_path, network(), **{"Image.NominalPixelRange": "NominalRange_16_235"})
        with pytest.raises(GraphError, match=r"NominalRange_16_235, is not known here\. Say --mean and --std"):
            read_foreign(path, Looks())
        assert read_foreign(path, LOOKS).mean == MEAN

    def test_a_file_that_is_not_there_or_not_onnx_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(GraphError, match=r"gone\.onnx: no such file"):
            read_foreign(tmp_path / "gone.onnx", LOOKS)
        (tmp_path / "text.onnx").write_text("not a graph")
        with pytest.raises(GraphError, match=r"text\.onnx: cannot be read as ONNX: \S"):
            read_foreign(tmp_path / "text.onnx", LOOKS)

    def test_a_network_that_gives_no_classes_is_refused(self, tmp_path: Path) -> None:
        path = write(tmp_path, network(nn.Upsample(scale_factor=2)))
        with pytest.raises(GraphError, match=r"gives shape \(-1, 8, 2, 2\), but a classifier gives \(images"):
            read_foreign(path, LOOKS)
