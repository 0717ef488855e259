"""Names the first layer from which on two networks compute something else, once their answers have parted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import torch
from onnx import helper
from torch import nn

from edgetl.export.border import nodes_behind, reads_of
from edgetl.export.core import CoreSession
from edgetl.records import FloatArray, ImageArray

__all__ = ["find_parted_layer", "find_parted_module"]

# Outputs of these are whole numbers: what they stand for comes out of the DequantizeLinear behind.
WHOLE = {"QuantizeLinear", "ArgMax"}
# Tensors that are zero all over are divided by this.
LEAST = 1e-12


def find_parted_module(network: nn.Module, planes: torch.Tensor, graph: bytes, images: ImageArray, limit: float) -> str:
    """Return the first layer of a torch network whose output, and all that follows, its graph does not compute.

    An exporter merges layers, so that the output of one alone says nothing: the first after the last that is found
    anywhere in the graph is the one.

    Args:
        network: in eval mode.
        planes: what it reads, shape (images, 3, side, side).
        graph: the serialized core graph that was made of it.
        images: the same as the graph reads them, uint8 of shape (images, height, width, 3).
        limit: largest error of an output that is still the same, as a share of its largest value.
    """
    seen: list[tuple[str, FloatArray]] = []

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: object, output: object) -> None:
            if isinstance(output, torch.Tensor):
                seen.append((f"{type(module).__name__} {name!r}", output.detach().float().cpu().clone().numpy()))

        return hook

    leaves = [(name, module) for name, module in network.named_modules() if not any(module.children())]
    hooks = [module.register_forward_hook(keep(name)) for name, module in leaves]
    try:
        with torch.inference_mode():
            network(planes)
    finally:
        for each in hooks:
            each.remove()
    values = CoreSession(graph, _float_tensors(onnx.load_from_string(graph).graph)).values(images)
    found = [any(_error(output, value) <= limit for value in values.values()) for _, output in seen]
    last = max((place for place, one in enumerate(found) if one), default=-1)
    return seen[min(last + 1, len(seen) - 1)][0]


def find_parted_layer(
    graph: bytes, images: ImageArray, run: Callable[[bytes, ImageArray], FloatArray], limit: float
) -> str:
    """Return the first layer of a core graph whose output an engine computes otherwise, by bisection.

    Args:
        graph: the serialized core graph.
        images: uint8 of shape (images, height, width, 3).
        run: lets the engine answer for a core graph that ends earlier.
        limit: largest error of an output that is still the same, as a share of its largest value.
    """
    model = onnx.load_from_string(graph)
    values = CoreSession(graph, _float_tensors(model.graph)).values(images)
    order = [name for node in model.graph.node for name in node.output if name in values]
    first, last = 0, len(order) - 1  # the last is the logits, which part
    while first < last:
        middle = (first + last) // 2
        expected = values[order[middle]]
        if _error(expected, run(_cut(model, order[middle], expected), images)) > limit:
            last = middle
        else:
            first = middle + 1
    maker = next(node for node in model.graph.node if order[first] in node.output)
    return f"{maker.op_type} {order[first]!r}"


def _float_tensors(graph: onnx.GraphProto) -> list[str]:
    """Return the tensors that depend on the image and hold what can be compared, the logits left out, in order."""
    live, names = {graph.input[0].name}, []
    for node in graph.node:
        if live.isdisjoint(node.input) or node.op_type == "Shape":
            continue
        live.update(node.output)
        if node.op_type not in WHOLE:
            names.append(node.output[0])
    return [name for name in names if name != graph.output[0].name]


def _cut(model: onnx.ModelProto, tensor: str, value: FloatArray) -> bytes:
    """Return a graph that ends at one of its tensors."""
    cut = onnx.ModelProto.FromString(model.SerializeToString())
    nodes = nodes_behind(cut.graph, tensor)
    read = {name for node in nodes for name in reads_of(node)}
    weights = [one for one in cut.graph.initializer if one.name in read]
    shape = ["images", *value.shape[1:]]
    ends = helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, shape)
    cut.graph.CopyFrom(helper.make_graph(nodes, cut.graph.name, list(cut.graph.input), [ends], weights))
    serialized: bytes = cut.SerializeToString()
    return serialized


def _error(expected: FloatArray, found: FloatArray) -> float:
    """Return the largest difference as a share of the largest value; infinite where shapes differ."""
    if expected.shape != found.shape:
        return float("inf")
    difference = np.abs(expected.astype(np.float64) - found)
    error = float(difference.max(initial=0.0) / max(float(np.abs(expected).max(initial=0.0)), LEAST))
    return error if np.isfinite(error) else float("inf")
