"""Tests of edgetl/export/graph.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from edgetl.errors import ExportError
from edgetl.export import EXPORTERS, CoreGraph, border, export_graph
from edgetl.export.graph import OPSET, Exporter
from edgetl.records import Border, FloatArray, ImageArray, Preprocess
from edgetl.runtime import paint_border

HOW = Preprocess(side=32, fit="squash", mean=(124, 116, 104), std=(58.4, 57.1, 57.4))
# Largest difference of a logit, as a share of the largest: float32 rounding, no more.
EXACT = 1e-5


def body(channels: int = 8) -> list[nn.Module]:
    """Return what follows the first convolution: BatchNorm, a depthwise convolution and a head of 3 classes."""
    return [
        nn.BatchNorm2d(channels),
        nn.Hardswish(),
        nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, 3),
    ]


def network(*first: nn.Module) -> nn.Sequential:
    """Return a network with these first layers, the same at each call, its BatchNorm far from the identity."""
    torch.manual_seed(1)
    made = nn.Sequential(*first, *body())
    for layer in made.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.reset_parameters()
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 2.0)
            nn.init.uniform_(layer.bias, -1.0, 1.0)
            nn.init.uniform_(layer.running_mean, -1.0, 1.0)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
    return made.eval()


def standard() -> nn.Sequential:
    return network(nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False))


def photos(count: int, side: int = 32) -> ImageArray:
    """Return images of smooth gradients with noise, so that neighbours are alike as in photos."""
    draw = np.random.default_rng(5)
    corners = torch.from_numpy(draw.uniform(0, 255, (count, 3, 3, 3)).astype(np.float32))
    smooth = nn.functional.interpolate(corners, (side, side), mode="bilinear").numpy().transpose(0, 2, 3, 1)
    noisy = smooth + draw.normal(0, 8, smooth.shape)
    return noisy.clip(0, 255).astype(np.uint8)


def trained(module: nn.Module, images: ImageArray, how: Preprocess = HOW) -> FloatArray:
    """Return the module's logits for normalised photos, in double precision."""
    normalised = (images - np.array(how.mean)) / np.array(how.std)
    planes = torch.from_numpy(normalised.transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        logits: FloatArray = module.double()(planes).numpy()
    module.float()
    return logits


def answered(exported: CoreGraph, images: ImageArray) -> FloatArray:
    """Return the core graph's logits for the images in their border, given as pixel/255."""
    painted = np.stack([paint_border(image, exported.preprocess) for image in images])
    shares = (painted.transpose(0, 3, 1, 2) / 255).astype(np.float32)
    session = onnxruntime.InferenceSession(exported.model.SerializeToString(), providers=["CPUExecutionProvider"])
    logits: FloatArray = session.run(["logits"], {"image": shares})[0]
    return logits


def error_of(exported: CoreGraph, module: nn.Module, count: int = 4) -> float:
    images = photos(count, exported.preprocess.side)
    expected = trained(module, images, exported.preprocess)
    return float(np.abs(answered(exported, images) - expected).max() / np.abs(expected).max())


def operators(exported: CoreGraph) -> list[str]:
    return [node.op_type for node in exported.model.graph.node]


@pytest.fixture(scope="module", params=EXPORTERS)
def exported(request: pytest.FixtureRequest) -> CoreGraph:
    return export_graph(standard(), HOW, request.param)


# What the first layers are -> the border that stands for their padding, None where nothing can be folded.
FIRST: dict[str, tuple[Callable[[], list[nn.Module]], Border | None]] = {
    "padding of one": (lambda: [nn.Conv2d(3, 8, 3, 2, 1)], Border(top=1, left=1, bottom=1, right=1)),
    "no bias": (lambda: [nn.Conv2d(3, 8, 3, 2, 1, bias=False)], Border(top=1, left=1, bottom=1, right=1)),
    "no padding": (lambda: [nn.Conv2d(3, 8, 3, 2)], Border()),
    "wider than high": (lambda: [nn.Conv2d(3, 8, (3, 7), (1, 2), (0, 3))], Border(left=3, right=3)),
    "higher than wide": (lambda: [nn.Conv2d(3, 8, (5, 1), (2, 1), (2, 0))], Border(top=2, bottom=2)),
    "padding wider than the kernel": (
        lambda: [nn.Conv2d(3, 8, 3, 1, 5)],
        Border(top=5, left=5, bottom=5, right=5),
    ),
    "holes in the kernel": (
        lambda: [nn.Conv2d(3, 8, 3, padding=2, dilation=2)],
        Border(top=2, left=2, bottom=2, right=2),
    ),
    "one pixel": (lambda: [nn.Conv2d(3, 8, 1)], Border()),
    "groups": (lambda: [nn.Conv2d(3, 9, 3, padding=1, groups=3), nn.Conv2d(9, 8, 1)], None),
    "mirrored edges": (lambda: [nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect")], None),
    "two readers": (lambda: [Branches()], None),
    "pooling first": (lambda: [nn.MaxPool2d(2), nn.Conv2d(3, 8, 3, padding=1)], None),
    "activation first": (lambda: [nn.ReLU(), nn.Conv2d(3, 8, 3, padding=1)], None),
}


class Branches(nn.Module):
    """Two convolutions of different padding that both read the image."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(3, 4, 1)
        self.wide = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.narrow(image), self.wide(image)], dim=1)


class TestNormalisation:
    @pytest.mark.parametrize("first", FIRST)
    def test_the_graph_computes_what_was_trained_whatever_comes_first(self, first: str) -> None:
        layers, border = FIRST[first]
        module = network(*layers())
        found = export_graph(module, HOW, "torchscript")
        assert error_of(found, module) < EXACT
        assert found.preprocess.border == (border or Border())
        assert (operators(found)[:2] == ["Sub", "Div"]) == (border is None)

    @pytest.mark.parametrize("first", ["wider than high", "two readers"])
    def test_the_dynamo_exporter_agrees(self, first: str) -> None:
        layers, border = FIRST[first]
        module = network(*layers())
        found = export_graph(module, HOW, "dynamo")
        assert error_of(found, module) < EXACT
        assert found.preprocess.border == (border or Border())

    def test_padding_of_one_side_more_is_exact(self) -> None:
        module = network(nn.ZeroPad2d((1, 2, 0, 3)), nn.Conv2d(3, 8, 3, stride=2))
        assert error_of(export_graph(module, HOW, "torchscript"), module) < EXACT

    def test_same_padding_of_an_even_kernel_is_exact(self) -> None:
        module = network(nn.Conv2d(3, 8, 4, padding="same"))
        assert error_of(export_graph(module, HOW, "torchscript"), module) < EXACT

    def test_a_network_without_any_convolution_is_exact(self) -> None:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 8), nn.Tanh(), nn.Linear(8, 3)).eval()
        found = export_graph(module, HOW, "torchscript")
        assert error_of(found, module) < EXACT
        assert found.preprocess.border == Border()

    @pytest.mark.parametrize(
        ("mean", "std"),
        [
            ((0, 0, 0), (255.0, 255.0, 255.0)),
            ((128, 128, 128), (127.5, 127.5, 127.5)),
            ((255, 0, 1), (1.0, 300.0, 58.0)),
        ],
    )
    def test_any_mean_and_std_are_folded_exactly(
        self, mean: tuple[int, int, int], std: tuple[float, float, float]
    ) -> None:
        how = HOW.model_copy(update={"mean": mean, "std": std})
        module = standard()
        assert error_of(export_graph(module, how, "torchscript"), module) < EXACT

    def test_the_border_is_what_makes_it_exact(self, exported: CoreGraph) -> None:
        # The same graph on photos whose border is black, as zero padding of the raw photo would be: not the network.
        images = photos(4)
        black = exported.preprocess.model_copy(update={"mean": (0, 0, 0)})
        wrong = answered(CoreGraph(model=exported.model, preprocess=black, exporter=exported.exporter), images)
        expected = trained(standard(), images)
        assert np.abs(wrong - expected).max() / np.abs(expected).max() > 100 * EXACT

    def test_a_weight_that_other_layers_share_is_folded_for_the_first_alone(self) -> None:
        module = network(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 8, 1))
        module[2].weight, module[2].bias = module[0].weight, module[0].bias
        found = export_graph(module, HOW, "torchscript")
        assert found.preprocess.border == Border(top=1, left=1, bottom=1, right=1)
        assert error_of(found, module) < EXACT

    @pytest.mark.parametrize("exporter", ["torchscript", pytest.param("dynamo", marks=pytest.mark.slow)])
    def test_mobilenet_v3_small_is_exact(self, exporter: Exporter) -> None:
        torchvision = pytest.importorskip("torchvision", reason="torchvision holds mobilenet_v3_small")
        torch.manual_seed(0)
        module = torchvision.models.mobilenet_v3_small(num_classes=5).eval()
        how = HOW.model_copy(update={"side": 64})
        found = export_graph(module, how, exporter)
        assert error_of(found, module) < EXACT
        assert found.preprocess.border == Border(top=1, left=1, bottom=1, right=1)
        assert "Sub" not in operators(found)[:2]


class TestTheGraph:
    def test_it_computes_what_was_trained(self, exported: CoreGraph) -> None:
        assert error_of(exported, standard()) < EXACT

    @pytest.mark.parametrize("count", [1, 2, 5])
    def test_the_batch_is_free(self, count: int, exported: CoreGraph) -> None:
        assert error_of(exported, standard(), count) < EXACT

    def test_its_border_is_pixel_shares_in_and_logits_out(self, exported: CoreGraph) -> None:
        graph = exported.model.graph
        shapes = {
            tensor.name: [dim.dim_param or dim.dim_value for dim in tensor.type.tensor_type.shape.dim]
            for tensor in (*graph.input, *graph.output)
        }
        assert shapes == {"image": ["images", 3, 34, 34], "logits": ["images", 3]}
        assert {each.type.tensor_type.elem_type for each in (*graph.input, *graph.output)} == {onnx.TensorProto.FLOAT}

    def test_it_is_of_the_opset_that_the_oldest_engine_reads(self, exported: CoreGraph) -> None:
        assert [(each.domain, each.version) for each in exported.model.opset_import if not each.domain] == [("", OPSET)]

    def test_normalisation_and_batch_norm_leave_no_operator(self, exported: CoreGraph) -> None:
        assert not {"Sub", "Div", "Pad", "BatchNormalization"} & set(operators(exported))
        assert operators(exported)[0] == "Conv"

    def test_it_holds_no_weight_that_no_layer_reads(self, exported: CoreGraph) -> None:
        graph = exported.model.graph
        read = {name for node in graph.node for name in node.input}
        assert {tensor.name for tensor in graph.initializer} <= read

    def test_it_says_which_exporter_made_it(self) -> None:
        assert export_graph(standard(), HOW, "torchscript").exporter == "torchscript"

    @pytest.mark.parametrize("exporter", EXPORTERS)
    def test_equal_biases_of_different_layers_stay_apart(self, exporter: Exporter) -> None:
        # ONNX Runtime's quantizer scales a bias that two layers share for one of them only.
        module = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), *body()
        )
        for index in (0, 2, 4):
            nn.init.ones_(module[index].bias)
        module.eval()
        found = export_graph(module, HOW, exporter)
        biases = [node.input[2] for node in found.model.graph.node if node.op_type in {"Conv", "Gemm"}]
        assert len(biases) == len(set(biases)) == 5
        assert "Identity" not in operators(found)
        assert error_of(found, module) < EXACT

    def test_nothing_of_this_machine_is_in_the_file(self, exported: CoreGraph) -> None:
        content = exported.model.SerializeToString()
        for place in (Path(torch.__file__).parents[1], Path(__file__).parents[1], Path.home()):
            assert str(place).encode() not in content
        assert not any(word in content for word in (b"site-packages", b".py", b"Traceback", b"pkg."))

    def test_two_exports_give_the_same_bytes(self, exported: CoreGraph) -> None:
        again = export_graph(standard(), HOW, exported.exporter)
        assert again.model.SerializeToString(deterministic=True) == exported.model.SerializeToString(deterministic=True)

    def test_weights_kept_channels_last_give_the_same_bytes(self, exported: CoreGraph) -> None:
        rows = standard().to(memory_format=torch.channels_last)
        again = export_graph(rows, HOW, exported.exporter)
        assert again.model.SerializeToString(deterministic=True) == exported.model.SerializeToString(deterministic=True)


class TestTheModule:
    def test_one_in_training_mode_is_exported_as_it_predicts_and_left_as_it_was(self) -> None:
        module = standard().train()
        before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        found = export_graph(module, HOW, "torchscript")
        assert module.training
        assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
        assert error_of(found, module.eval()) < EXACT

    @pytest.mark.parametrize("exporter", EXPORTERS)
    def test_one_that_cannot_be_exported_is_refused_in_one_line(self, exporter: Exporter) -> None:
        class Eigen(nn.Module):
            def forward(self, image: torch.Tensor) -> Any:
                if exporter == "dynamo" and float(image.sum()) > 0.5:
                    return image
                return torch.linalg.eigvals(image.mean(dim=1)).real

        message = rf"torch's {exporter} exporter cannot export this network: \S"
        with pytest.raises(ExportError, match=message) as caught:
            export_graph(Eigen(), HOW, exporter)
        assert "\n" not in str(caught.value)

    def test_a_graph_that_is_not_valid_onnx_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:

        def break_it(inner: onnx.GraphProto, wanted: border.Normalisation, fold: bool) -> Border:
            inner.node[0].op_type = "Convolute"
            return Border()

        monkeypatch.setattr(border, "_normalise", break_it)
        with pytest.raises(ExportError, match=r"the torchscript graph is not valid ONNX: .*Convolute"):
            export_graph(standard(), HOW, "torchscript")


def test_folded_weights_are_those_of_the_layer_over_std() -> None:
    module = network(nn.Conv2d(3, 8, 1))
    module[1] = nn.Identity()
    weights = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in export_graph(module, HOW, "torchscript").model.graph.initializer
    }
    layer = module[0]
    scale = 255 / np.array(HOW.std).reshape(1, 3, 1, 1)
    np.testing.assert_allclose(weights["image_weight"], layer.weight.detach().numpy() * scale, rtol=1e-6)
    shift = (layer.weight.detach().numpy()[:, :, 0, 0] * (np.array(HOW.mean) / np.array(HOW.std))).sum(axis=1)
    np.testing.assert_allclose(weights["image_bias"], layer.bias.detach().numpy() - shift, rtol=1e-5, atol=1e-6)
