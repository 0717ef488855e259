"""Tests of edgetl/export/foreign.py and edgetl/export/adopt.py: classifiers that were trained elsewhere."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edgetl.errors import GraphError
from edgetl.export import CoreSession, InputSpec, adopt_graph, read_foreign
from edgetl.records import FloatArray, ImageArray
from edgetl.runtime import paint_border

pytestmark = [
    pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript-based ONNX export:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The feature will be removed:DeprecationWarning"),
]

SIDE = 32
# Whole 255ths, so that folding is exact.
MEAN, STD = (124 / 255, 116 / 255, 104 / 255), (0.229, 0.224, 0.225)
SPEC = InputSpec(mean=MEAN, std=STD, fit="squash")
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


def adopted(path: Path, images: ImageArray, spec: InputSpec = SPEC, way: Any = "folded") -> FloatArray:
    """Return what the core graph gives."""
    core = adopt_graph(read_foreign(path, spec), way)
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
    assert_same(read_foreign(path, SPEC).run(photos()), expected)
    assert_same(adopted(path, photos(), way=way), expected)


def test_a_graph_of_one_photo_at_a_time_takes_any_number(tmp_path: Path) -> None:
    module = network(nn.Flatten(), nn.Linear(8, 8), nn.Unflatten(1, (2, 4)), nn.Flatten(), nn.Linear(8, 3))
    path = write(tmp_path, module, free=False)
    assert any(node.op_type == "Reshape" for node in onnx.load(path).graph.node)
    assert_same(read_foreign(path, SPEC).run(photos()), answers(module, photos()))
    assert_same(adopted(path, photos()), answers(module, photos()))


def test_probabilities_become_logits(tmp_path: Path) -> None:
    module = network(nn.Flatten(), nn.Linear(8, 3), nn.Softmax(dim=1))
    path = write(tmp_path, module)
    expected = answers(without_softmax(module), photos())
    assert_same(read_foreign(path, SPEC).run(photos()), expected)
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
    assert_same(read_foreign(path, SPEC).run(photos()), expected)
    assert_same(adopted(path, photos()), expected)
    assert not {"Softmax", behind} & {
        node.op_type for node in adopt_graph(read_foreign(path, SPEC), "folded").model.graph.node
    } - {"Flatten"}


def test_probabilities_that_come_from_elsewhere_are_refused(tmp_path: Path) -> None:
    class Shares(nn.Module):
        def forward(self, logits: torch.Tensor) -> torch.Tensor:
            powers = logits.exp()
            return powers / powers.sum(dim=1, keepdim=True)

    path = write(tmp_path, network(nn.Flatten(), nn.Linear(8, 3), Shares()))
    with pytest.raises(GraphError, match=r"gives probabilities, .* Export it up to its logits"):
        read_foreign(path, SPEC).run(photos())


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
    assert_same(read_foreign(path, SPEC).run(photos()), answers(network(), photos()))
    assert_same(adopted(path, photos()), answers(network(), photos()))
    # The two turns cancel out, so that the first convolution is the first layer again.
    core = adopt_graph(read_foreign(path, SPEC), "folded").model
    assert core.graph.node[0].op_type == "Conv"


@pytest.mark.parametrize("way", ["folded", "explicit"])
def test_a_graph_that_reads_blue_first_gets_red_first(way: str, tmp_path: Path) -> None:
    spec = InputSpec(mean=MEAN[::-1], std=STD[::-1], fit="squash", channels="bgr")
    module = network()
    with torch.no_grad():
        module[0].weight.copy_(module[0].weight.flip(1))  # type: ignore[operator]
    path = write(tmp_path, module)
    expected = answers(network(), photos())
    assert_same(read_foreign(path, spec).run(photos()), expected)
    assert_same(adopted(path, photos(), spec, way), expected)


def test_batchnorm_and_constants_are_folded_away_and_every_node_has_a_name(tmp_path: Path) -> None:
    path = write(tmp_path, network())
    model = onnx.load(path)
    for node in model.graph.node:
        node.name = ""
    core = adopt_graph(read_foreign(save(tmp_path, model), SPEC), "folded").model
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


@pytest.mark.parametrize("way", ["folded", "explicit"])
def test_what_only_a_branch_reads_is_kept(way: str, tmp_path: Path) -> None:
    model = onnx.load(write(tmp_path, network()))
    made = next(node for node in model.graph.node if node.output[0] == "output")
    made.output[0] = "plain"
    nodes = [
        helper.make_node("ReduceMax", ["plain"], ["most"], keepdims=0),
        helper.make_node("Greater", ["most", "nothing"], ["is_above"]),
        # Only the branch reads it; it is called as edgetl calls its own.
        helper.make_node("Add", ["plain", "one"], ["logits_more"]),
    ]
    model.graph.initializer.extend(
        numpy_helper.from_array(np.float32(value), name) for name, value in (("nothing", 0.0), ("one", 1.0))
    )
    branches = {
        name: helper.make_graph(
            [helper.make_node("Mul", [read, read], [f"{name}_out"])], name, [],
            [helper.make_tensor_value_info(f"{name}_out", onnx.TensorProto.FLOAT, None)],
        )
        for name, read in (("then_branch", "logits_more"), ("else_branch", "plain"))
    }  # fmt: skip
    model.graph.node.extend([*nodes, helper.make_node("If", ["is_above"], ["output"], **branches)])
    path = save(tmp_path, model)
    expected = read_foreign(path, SPEC).run(photos())
    plain = answers(network(), photos())
    assert_same(expected, (plain + 1) ** 2 if plain.max() > 0 else plain**2)
    assert_same(adopted(path, photos(), way=way), expected)


def test_no_two_nodes_have_one_name(tmp_path: Path) -> None:
    model = onnx.load(write(tmp_path, network(nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))))
    kinds = [node for node in model.graph.node if node.op_type == "Relu"]
    for node in model.graph.node:
        node.name = ""
    kinds[0].name = "Relu_0"
    names = [node.name for node in adopt_graph(read_foreign(save(tmp_path, model), SPEC), "folded").model.graph.node]
    assert "Relu_0" in names
    assert len(set(names)) == len(names)
