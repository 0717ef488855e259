"""Tests of edgetl/quantize/placement.py."""

from __future__ import annotations

import onnx
import pytest
import torch
from torch import nn

from edgetl.export import export_graph
from edgetl.metrics import signal_to_noise
from edgetl.quantize import calibrate
from edgetl.quantize.by_onnxruntime import quantize_graph
from edgetl.records import Preprocess
from tests.quantize.test_by_onnxruntime import MINMAX, SIDE, batches, draw, quantize, run, weights_of

LAYERS = {"Conv", "Gemm", "MatMul"}


class Attention(nn.Module):
    """Patches, one block of attention and one of two linear layers, each with a sum around it that has an outlier, and
    a head."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 8, stride=8)
        self.norm, self.all, self.out = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.second, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)
        self.head = nn.Linear(16, 3)
        with torch.no_grad():
            self.out.bias[3] = 500.0
            self.head.weight[:, 3] = 0.0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        tokens = self.patch(image).flatten(2).transpose(1, 2)
        query, key, value = self.all(self.norm(tokens)).chunk(3, dim=2)
        seen = (query @ key.transpose(1, 2) / 4).softmax(dim=2) @ value
        tokens = tokens + self.out(seen)
        tokens = tokens + self.down(nn.functional.gelu(self.up(self.second(tokens))))
        logits: torch.Tensor = self.head(tokens.mean(dim=1))
        return logits


@pytest.fixture(scope="module")
def transformer() -> onnx.ModelProto:
    """Return the core graph of a transformer."""
    torch.manual_seed(0)
    how = Preprocess(side=SIDE, fit="squash", mean=(124, 116, 104), std=(58.4, 57.1, 57.4))
    return export_graph(Attention().eval(), how, "dynamo").model


class Shared(nn.Module):
    """A sum that reads what a linear layer reads, one that reads what a convolution gives, a norm and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.layer = nn.Conv2d(3, 16, 8, stride=8), nn.Linear(16, 16)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        patches = self.patch(image)
        tokens = nn.functional.gelu((patches + patches.sigmoid()).flatten(2).transpose(1, 2))
        logits: torch.Tensor = self.head(self.norm(tokens + self.layer(tokens)).mean(dim=1))
        return logits


class TestTransformers:
    """Networks that normalize by layers, or multiply activations with one another."""

    def test_only_layers_of_weights_and_what_they_read_are_rounded(self, transformer: onnx.ModelProto) -> None:
        quantized = quantize(transformer, batches(), MINMAX)
        back = {node.output[0] for node in quantized.graph.node if node.op_type == "DequantizeLinear"}
        reads = [(node.op_type, [name in back for name in node.input]) for node in quantized.graph.node]
        layers = [rounded for kind, rounded in reads if kind in LAYERS]
        # Patches, four linear layers; two products of attention and the head.
        assert sorted(all(rounded[:2]) for rounded in layers) == [False] * 3 + [True] * 5
        assert not any(any(rounded) for kind, rounded in reads if kind in {"Add", "LayerNormalization", "Softmax"})

    def test_what_linear_layers_give_stays_float_for_so_their_kernels_do(self, transformer: onnx.ModelProto) -> None:
        quantized = quantize(transformer, batches(), MINMAX)
        back = {node.output[0] for node in quantized.graph.node if node.op_type == "DequantizeLinear"}
        rounded = {node.input[0] for node in quantized.graph.node if node.op_type == "QuantizeLinear"}
        layers = [node for node in quantized.graph.node if back.issuperset(node.input[:2])]
        told = {(node.op_type == "Conv", node.output[0] in rounded) for node in layers}
        assert told == {(True, True), (False, False)}

    def test_outliers_between_the_layers_cost_nothing(self, transformer: onnx.ModelProto) -> None:
        quantized = quantize(transformer, batches(), MINMAX)
        expected, found = (run(each, draw(16, 9)) for each in (transformer, quantized))
        assert signal_to_noise(expected, found) > 30

    def test_what_a_layer_reads_rounded_others_read_as_it_was_but_for_what_a_convolution_gives(self) -> None:
        torch.manual_seed(0)
        how = Preprocess(side=SIDE, fit="squash", mean=(124, 116, 104), std=(58.4, 57.1, 57.4))
        quantized = quantize(export_graph(Shared().eval(), how, "dynamo").model, batches(), MINMAX)
        back = {node.output[0] for node in quantized.graph.node if node.op_type == "DequantizeLinear"}
        others = [node for node in quantized.graph.node if back & {*node.input} and node.op_type not in LAYERS]
        assert {node.op_type for node in others} == {"Add", "Sigmoid"}
        (made,) = {name for node in others for name in node.input if name in back}
        assert made.startswith("conv")

    def test_layers_go_back_to_float_by_name(self, transformer: onnx.ModelProto) -> None:
        statistics = calibrate(transformer, batches(), MINMAX)
        names = [node.name for node in transformer.graph.node if node.op_type in {"Gemm", "MatMul"}]
        plain = quantize_graph(transformer, statistics, MINMAX, names)
        assert [each.ndim for each in weights_of(plain).values()] == [4]
