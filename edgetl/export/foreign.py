"""Reads a classifier that was trained elsewhere, an ONNX file, checks that it is one, and runs it as it stands."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, numpy_helper
from onnx.external_data_helper import load_external_data_for_model

from edgetl.errors import GraphError, first_line
from edgetl.export.input_spec import InputSpec, read_channels, read_labels, read_range
from edgetl.records import Channels, Fit, FloatArray, ImageArray, Preprocess, Triple

__all__ = ["ForeignGraph", "read_foreign"]

# What may stand behind a Softmax at a graph's end, and how near to 1 the probabilities of a photo come.
AFTER = {"Identity", "Cast", "Flatten", "Reshape", "Squeeze", "Transpose"}
SUM = 1e-3
# Operators of graphs that are quantized, of which one is always there.
QUANTIZED = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "ConvInteger"}

# Kinds of numbers below float32.
HALVES = {TensorProto.FLOAT16, TensorProto.BFLOAT16}


@dataclass(frozen=True, kw_only=True)
class ForeignGraph:
    """A classifier trained elsewhere.

    `rows` says that the graph reads rows of pixels (images, height, width, 3) in place of planes, `places` that it
    gives (images, classes, 1, 1); `logits` is the tensor that holds the logits: the output or, where the file ends in a
    Softmax, what that reads; `mean` and `std` are of pixel/255, in RGB order, whichever order the graph reads.
    `labels` are those that the file names, in the order of its outputs, None where it names none.
    """

    name: str
    identity: str
    model: onnx.ModelProto
    side: int
    rows: bool
    logits: str
    places: bool
    channels: Channels
    fit: Fit
    crop_share: float
    mean: Triple
    std: Triple
    classes: int
    labels: tuple[str, ...] | None

    @property
    def preprocess(self) -> Preprocess:
        """How a photo becomes the graph's image: the mean, the colour of borders, is rounded to whole 255ths."""
        red, green, blue = (min(255, max(0, round(255 * value))) for value in self.mean)
        return Preprocess(
            side=self.side,
            fit=self.fit,
            crop_share=self.crop_share,
            mean=(red, green, blue),
            std=(255 * self.std[0], 255 * self.std[1], 255 * self.std[2]),
        )

    @property
    def batch(self) -> int | None:
        """How many photos the file takes at once, None for any number."""
        return self.model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or None

    def run(self, images: ImageArray) -> FloatArray:
        """Return the logits of shape (images, classes) that the file gives for uint8 photos of shape (images, side,
        side, 3), as it stands: as many at once as it takes.

        Raises:
            GraphError: ONNX Runtime cannot run it.
        """
        shares = images.astype(np.float32) / np.float32(255)
        normal = (shares - np.array(self.mean, dtype=np.float32)) / np.array(self.std, dtype=np.float32)
        if self.channels == "bgr":
            normal = normal[..., ::-1]
        feed = np.ascontiguousarray(normal if self.rows else normal.transpose(0, 3, 1, 2))
        entry = self.model.graph.input[0]
        at_once = self.batch or len(feed)
        # A batch that is not whole is filled up.
        whole = np.concatenate([feed, feed[:1].repeat(-len(feed) % at_once, axis=0)])
        try:
            parts = [
                self._engine.run(None, {entry.name: whole[start : start + at_once]})[0]
                for start in range(0, len(whole), at_once)
            ]
        except Exception as error:  # ONNX Runtime raises its own unrelated classes
            raise GraphError(f"{self.name}: ONNX Runtime {onnxruntime.__version__} cannot run it: {error}") from error
        logits: FloatArray = np.concatenate(parts)[: len(feed)].reshape(len(feed), -1).astype(np.float32)
        if not np.isfinite(logits).all():
            raise GraphError(f"{self.name}: its answers are not finite. Is a weight NaN, or far too large?")
        if (logits >= 0).all() and np.allclose(logits.sum(axis=1), 1, atol=SUM):
            raise GraphError(
                f"{self.name}: gives probabilities, and where they come from was not found. Export it up to its logits"
            )
        return logits

    @cached_property
    def _engine(self) -> onnxruntime.InferenceSession:
        model = onnx.ModelProto.FromString(self.model.SerializeToString())
        del model.graph.output[:]
        model.graph.output.append(onnx.ValueInfoProto(name=self.logits))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def read_foreign(path: Path, spec: InputSpec) -> ForeignGraph:
    """Return the classifier in an ONNX file; what the user says of its photos goes before what the file says.

    Raises:
        GraphError: no such file, not ONNX, not a float classifier of one photo and one row of logits, a weight that is
            not finite, or nothing says how large its photos are.
    """
    model = _load(path)
    _check_content(path, model)
    entry = _check_input(path, model)
    rows, side = _side_of(path, entry, spec.side)
    shapes = _shapes(model)
    classes = _check_output(path, model, shapes)
    logits = _logits_of(path, model.graph)
    said = {prop.key: prop.value for prop in model.metadata_props}
    channels = read_channels(said, spec)
    mean, std = read_range(path, said, spec)
    if channels == "bgr":
        mean, std = (mean[2], mean[1], mean[0]), (std[2], std[1], std[0])
    labels = None if spec.labelled else read_labels(path, said, classes)
    return ForeignGraph(
        name=path.name,
        identity=f"sha256:{hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()}",
        model=model,
        side=side,
        rows=rows,
        logits=logits,
        places=len(shapes.get(logits, ())) > 2,
        channels=channels,
        fit=spec.fit,
        crop_share=spec.crop_share,
        mean=mean,
        std=std,
        classes=classes,
        labels=labels,
    )


def _load(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise GraphError(f"{path}: no such file. Give an ONNX file")
    try:
        model = onnx.load(path, load_external_data=False)
        apart = {
            _place_of(tensor) for tensor in model.graph.initializer if tensor.data_location == TensorProto.EXTERNAL
        }
        missing = sorted(name for name in apart if not (path.parent / name).is_file())
        if not missing:
            load_external_data_for_model(model, str(path.parent))
            onnx.checker.check_model(model)
    except Exception as error:  # protobuf's, onnx's and the file system's unrelated classes
        raise GraphError(f"{path}: cannot be read as ONNX: {first_line(error)}") from error
    if missing:
        raise GraphError(f"{path}: its weights lie in {', '.join(missing)}, which is not beside it. Put that there too")
    # Old files list their weights among what they read.
    stored = {tensor.name for tensor in model.graph.initializer}
    for entry in [entry for entry in model.graph.input if entry.name in stored]:
        model.graph.input.remove(entry)
    # The first version of the format in which they need not.
    model.ir_version = max(model.ir_version, 4)
    return model


def _place_of(tensor: TensorProto) -> str:
    """Return the name of the file that holds a tensor's data."""
    return next(str(entry.value) for entry in tensor.external_data if entry.key == "location")


def _check_input(path: Path, model: onnx.ModelProto) -> onnx.ValueInfoProto:
    """Return what the graph reads."""
    reads, gives = model.graph.input, model.graph.output
    if len(reads) != 1 or len(gives) != 1:
        raise GraphError(
            f"{path}: reads {_names(reads)} and gives {_names(gives)}, but a classifier reads one image and gives one "
            "row of logits. Export it with one input and one output"
        )
    kind = reads[0].type.tensor_type
    sizes = _sizes(kind)
    if kind.elem_type != TensorProto.FLOAT or len(sizes) != 4 or 3 not in {sizes[1], sizes[3]}:
        raise GraphError(
            f"{path}: reads {TensorProto.DataType.Name(kind.elem_type).lower()} of shape {sizes}, but photos come as "
            "float of shape (images, 3, height, width) or (images, height, width, 3)"
        )
    entry: onnx.ValueInfoProto = reads[0]
    return entry


def _check_output(path: Path, model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Return how many classes the graph tells apart."""
    given = shapes[model.graph.output[0].name]
    if len(given) < 2 or given[1] < 2 or any(size != 1 for size in given[2:]):
        raise GraphError(f"{path}: gives shape {given}, but a classifier gives (images, classes)")
    return given[1]


def _logits_of(path: Path, graph: onnx.GraphProto) -> str:
    """Return the tensor that holds the logits."""
    made = {name: node for node in graph.node for name in node.output}
    name: str = graph.output[0].name
    while name in made and made[name].op_type in AFTER:
        name = made[name].input[0]
    ends = made.get(name)
    if ends is not None and ends.op_type == "Sigmoid":
        raise GraphError(
            f"{path}: ends in a Sigmoid, so it says of each class whether it is there, and edgetl which one is. If one "
            "always is, export it up to its logits"
        )
    found: str = ends.input[0] if ends is not None and ends.op_type == "Softmax" else graph.output[0].name
    return found


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the shapes of tensors by name, () where one is not known, with -1 for what is free."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    return {one.name: _sizes(one.type.tensor_type) for one in (*graph.value_info, *graph.output)}


def _check_content(path: Path, model: onnx.ModelProto) -> None:
    if any(node.op_type in QUANTIZED for node in model.graph.node):
        raise GraphError(
            f"{path}: is quantized already (it holds Q/DQ). edgetl quantizes, and measures against float: give the "
            "float graph that it was made from"
        )
    kinds = {tensor.data_type for tensor in model.graph.initializer}
    kinds |= {entry.type.tensor_type.elem_type for entry in model.graph.input}
    for kind in sorted(kinds & HALVES):
        raise GraphError(
            f"{path}: holds numbers of {TensorProto.DataType.Name(kind).lower()}. edgetl makes lower precisions "
            "itself, and measures them against float32: export it in that"
        )
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and not np.isfinite(numpy_helper.to_array(tensor)).all():
            raise GraphError(f"{path}: the weights {tensor.name} hold a NaN or an infinity. Was its training sound?")


def _side_of(path: Path, entry: onnx.ValueInfoProto, said: int | None) -> tuple[bool, int]:
    """Return whether the graph reads rows of pixels, and the side of its photos, which is set where it was free."""
    sizes = _sizes(entry.type.tensor_type)
    rows = sizes[1] != 3
    height, width = sizes[1:3] if rows else sizes[2:4]
    if height != width and height > 0 and width > 0:
        raise GraphError(f"{path}: reads photos of {height}x{width}, but edgetl fits photos to squares")
    side = max(height, width)
    if side <= 0 and said is None:
        raise GraphError(f"{path}: does not say how large its photos are. Say --image-size")
    if side > 0 and said not in {None, side}:
        raise GraphError(f"{path}: reads photos of {side}x{side}, but --image-size is {said}")
    if side <= 0 and said is not None:
        side = said
        for axis in (1, 2) if rows else (2, 3):
            entry.type.tensor_type.shape.dim[axis].dim_value = side
    return rows, side


def _sizes(kind: onnx.TypeProto.Tensor) -> tuple[int, ...]:
    """Return a shape with -1 for what is free."""
    return tuple(dim.dim_value or -1 for dim in kind.shape.dim)


def _names(ports: Sequence[onnx.ValueInfoProto]) -> str:
    return ", ".join(port.name for port in ports) or "nothing"
