"""Exports a torch module to the core graph: pixel/255 in, logits out, normalisation folded into the weights."""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import onnx
import torch
from torch import nn

from edgetl.errors import ExportError, first_line
from edgetl.export.border import BATCH, INPUT, OPSET, OUTPUT, CoreGraph, Normalisation, as_core
from edgetl.records import Preprocess

__all__ = ["EXPORTERS", "Exporter", "export_graph"]

Exporter = Literal["dynamo", "torchscript"]
# In order of preference; parity decides.
EXPORTERS: tuple[Exporter, ...] = ("dynamo", "torchscript")


def export_graph(module: nn.Module, how: Preprocess, exporter: Exporter) -> CoreGraph:
    """Return the core graph of a trained module.

    The graph reads `image`, float32 of shape (images, 3, height, width) holding pixel/255, and gives `logits`. Where
    the first layer is a convolution, mean and std are folded into it and its zero padding becomes a border of the mean
    colour that the preprocessing paints: exact, because the mean is whole 255ths. Else the graph begins with explicit
    arithmetic and there is no border.

    Args:
        module: reads normalised photos of shape (images, 3, side, side).
        how: the preprocessing it was trained with, without border.
        exporter: torch's exporter to use.

    Raises:
        ExportError: the exporter failed, or its graph is not valid ONNX.
    """
    # Weights kept channels-last would be exported as a maze of strides.
    network = copy.deepcopy(module).cpu().eval().to(memory_format=torch.contiguous_format)
    example = torch.zeros(2, 3, how.side, how.side)  # a batch of one would be specialised
    try:
        with _quiet():
            model = _dynamo(network, example) if exporter == "dynamo" else _torchscript(network, example)
    except Exception as error:  # torch raises many unrelated classes here
        raise ExportError(f"torch's {exporter} exporter cannot export this network: {first_line(error)}") from error
    _part_weights(model.graph)
    mean, std = ((each[0] / 255, each[1] / 255, each[2] / 255) for each in (how.mean, how.std))
    return as_core(model, how, Normalisation(mean=mean, std=std), exporter)


def _dynamo(network: nn.Module, example: torch.Tensor) -> onnx.ModelProto:
    program = torch.onnx.export(
        network,
        (example,),
        dynamo=True,
        opset_version=OPSET,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=({0: torch.export.Dim(BATCH, min=1)},),
        verbose=False,
    )
    if program is None:
        raise ExportError("the dynamo exporter gave no program")
    return program.model_proto


def _torchscript(network: nn.Module, example: torch.Tensor) -> onnx.ModelProto:
    buffer = io.BytesIO()
    torch.onnx.export(
        network,
        (example,),
        buffer,  # type: ignore[arg-type]  # a file object works, torch's annotation forgets it
        dynamo=False,
        opset_version=OPSET,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_axes={INPUT: {0: BATCH}, OUTPUT: {0: BATCH}},
    )
    return onnx.load_from_string(buffer.getvalue())


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's notes about its own internals from the user; errors are raised, and parity judges the result."""
    loggers = [logging.getLogger(name) for name in ("torch", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _part_weights(graph: onnx.GraphProto) -> None:
    """Give each layer weights of its own where an exporter keeps equal ones once.

    torchscript hides them behind Identity nodes; dynamo lets two layers read one bias, which ONNX Runtime's quantizer
    then scales for one of them only.
    """
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for node in [node for node in graph.node if node.op_type == "Identity" and node.input[0] in stored]:
        _copy_tensor(graph, stored[node.input[0]], node.output[0])
        graph.node.remove(node)
    taken: set[str] = set()
    for node in graph.node:
        if node.op_type in {"Conv", "Gemm"} and len(node.input) > 2 and node.input[2] in stored:
            if node.input[2] in taken:
                _copy_tensor(graph, stored[node.input[2]], f"{node.output[0]}_bias")
                node.input[2] = f"{node.output[0]}_bias"
            taken.add(node.input[2])


def _copy_tensor(graph: onnx.GraphProto, tensor: onnx.TensorProto, name: str) -> None:
    copied = graph.initializer.add()
    copied.CopyFrom(tensor)
    copied.name = name
