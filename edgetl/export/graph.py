"""Exports a torch module to the core graph: pixel/255 in, logits out, normalisation folded into the weights."""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import nn

from edgetl.errors import ExportError
from edgetl.records import Border, Preprocess

__all__ = ["EXPORTERS", "INPUT", "OPSET", "OUTPUT", "CoreGraph", "Exporter", "export_graph"]

# What JetPack 6's TensorRT reads, and the first opset with float16 quantization scales.
OPSET = 19
INPUT, OUTPUT, BATCH = "image", "logits", "images"

Exporter = Literal["dynamo", "torchscript"]
# In order of preference; parity decides.
EXPORTERS: tuple[Exporter, ...] = ("dynamo", "torchscript")


@dataclass(frozen=True, kw_only=True, slots=True)
class CoreGraph:
    """The core graph, the preprocessing with the border that its first convolution asks for, and what exported it."""

    model: onnx.ModelProto
    preprocess: Preprocess
    exporter: Exporter


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
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ExportError(f"torch's {exporter} exporter cannot export this network: {first}") from error
    _strip_notes(model)
    _part_weights(model.graph)
    border = _fold_normalisation(model.graph, how)
    whole = how.model_copy(update={"border": border})
    _declare_border(model.graph, whole)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"torch's {exporter} exporter gave a graph that is not valid ONNX: {error}") from error
    return CoreGraph(model=model, preprocess=whole, exporter=exporter)


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


def _strip_notes(model: onnx.ModelProto) -> None:
    """Remove stack traces and paths of this machine, so that the same network gives the same file."""
    del model.metadata_props[:]
    model.doc_string = ""
    graph = model.graph
    graph.name, graph.doc_string = "edgetl", ""
    del graph.value_info[:], graph.metadata_props[:]
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]


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


def _fold_normalisation(graph: onnx.GraphProto, how: Preprocess) -> Border:
    mean = np.array(how.mean, dtype=np.float64) / 255
    std = np.array(how.std, dtype=np.float64) / 255
    readers = [node for node in graph.node if INPUT in node.input]
    if len(readers) == 1 and readers[0].op_type == "Conv":
        border = _fold_into_convolution(graph, readers[0], mean, std)
        if border is not None:
            return border
    _prepend_arithmetic(graph, mean, std)
    return Border()


def _fold_into_convolution(
    graph: onnx.GraphProto, conv: onnx.NodeProto, mean: np.ndarray, std: np.ndarray
) -> Border | None:
    """Return the border that stands for the padding, after folding; None if this convolution cannot take it."""
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in conv.attribute}
    if conv.input[1] not in initializers or attributes.get("auto_pad", b"NOTSET") not in {b"NOTSET", b"VALID", b""}:
        return None
    if attributes.get("group", 1) != 1 or (len(conv.input) > 2 and conv.input[2] not in initializers):
        return None
    weight = numpy_helper.to_array(initializers[conv.input[1]]).astype(np.float64)
    scaled = weight / std.reshape(1, 3, 1, 1)
    shift = -(scaled * mean.reshape(1, 3, 1, 1)).sum(axis=(1, 2, 3))
    if len(conv.input) > 2 and conv.input[2]:
        shift = shift + numpy_helper.to_array(initializers[conv.input[2]]).astype(np.float64)
    del conv.input[1:]
    for name, value in ((f"{INPUT}_weight", scaled), (f"{INPUT}_bias", shift)):
        graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
        conv.input.append(name)
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    for attribute in [a for a in conv.attribute if a.name in {"pads", "auto_pad"}]:
        conv.attribute.remove(attribute)
    _drop_unused(graph)
    return Border(top=top, left=left, bottom=bottom, right=right)


def _prepend_arithmetic(graph: onnx.GraphProto, mean: np.ndarray, std: np.ndarray) -> None:
    for node in graph.node:
        node.input[:] = ["normalised" if name == INPUT else name for name in node.input]
    for name, value in (("mean", mean), ("std", std)):
        graph.initializer.append(
            numpy_helper.from_array(value.astype(np.float32).reshape(1, 3, 1, 1), f"{INPUT}_{name}")
        )
    graph.node.insert(0, helper.make_node("Div", ["centred", f"{INPUT}_std"], ["normalised"], name="divide_by_std"))
    graph.node.insert(0, helper.make_node("Sub", [INPUT, f"{INPUT}_mean"], ["centred"], name="subtract_mean"))


def _drop_unused(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    for tensor in [t for t in graph.initializer if t.name not in used]:
        graph.initializer.remove(tensor)


def _declare_border(graph: onnx.GraphProto, how: Preprocess) -> None:
    """State the tensors at the graph's border anew: the input has grown by the border, the batch is free."""
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info(INPUT, onnx.TensorProto.FLOAT, [BATCH, 3, how.height, how.width]))
    classes = graph.output[0].type.tensor_type.shape.dim[1].dim_value
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, [BATCH, classes]))
