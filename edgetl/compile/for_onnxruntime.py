"""Gives a core graph the uint8 face that ONNX Runtime runs fastest.

The photo arrives as bytes in rows of RGB. In an INT8 graph those bytes are the quantized input as they stand (scale
1/255, zero point 0), so the graph's own quantization of the input falls away; in a float graph 1/255 goes into the
first weights. ONNX Runtime's fast INT8 convolution reads channels in fours (MlasConvSym's pack width), so a first
convolution of three is given one channel more, with weights of zero: seen on squeezenet1_1, 2 cores with AVX2, INT8 at
batch 1 takes 3.41 ms with it, though it was added pixel by pixel then, and 3.87 ms without.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgetl.compile.compiled import Compiled
from edgetl.compile.face import Core, finish, read_core
from edgetl.errors import ExportError, missing_library
from edgetl.records import ModelContent

if TYPE_CHECKING:
    import onnx

__all__ = ["compile_graph", "simplify_graph"]

PLANES, FOURS, FLOATS, PIXELS = "image_planes", "image_fours", "image_floats", "image_pixels"
# Pixels that get their fourth channel together, where so many go into the image: transposing is fast by eights.
TOGETHER = (8, 4, 2, 1)


def compile_graph(graph: bytes) -> Compiled:
    """Return the artifact of a core graph: uint8 NHWC images in, float32 logits out.

    Raises:
        ExportError: the graph has not the border of a core graph.
        MissingError: onnx is not installed.
    """
    core = read_core(graph, "compile a graph for ONNX Runtime")
    from onnx import helper

    inner, name = core.model.graph, core.name
    quantize = next((node for node in inner.node if node.op_type == "QuantizeLinear" and node.input[0] == name), None)
    widened = False
    if quantize is None:
        _feed_floats(inner, name)
    else:
        _feed_bytes(inner, quantize)
        widened = _widen_first_convolution(inner)
        _leave_out_zeros(inner)
    rows = FOURS if widened else name
    inner.node.insert(0, helper.make_node("Transpose", [rows], [PLANES], name="to_planes", perm=[0, 3, 1, 2]))
    if widened:
        _widen_pixels(inner, core)
    made = finish(core)
    return replace(made, content=ModelContent(graph=simplify_graph(made.content.graph)))


def simplify_graph(graph: bytes) -> bytes:
    """Return a graph as ONNX Runtime simplifies it; it stays plain ONNX, Q/DQ included.

    It loads faster: seen on 2 cores, INT8 squeezenet1_1 in 9.0 ms in place of 11.0, float mobilenet_v2 in 17.9 in
    place of 28.0. Two more milliseconds would cost operators that ONNX Runtime alone reads.

    Raises:
        ExportError: ONNX Runtime cannot read the graph.
        MissingError: onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise missing_library("onnxruntime", "ort", "compile a graph for ONNX Runtime") from None
    import onnx

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "simple.onnx"
        options.optimized_model_filepath = str(path)
        try:
            onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises its own unrelated classes
            raise ExportError(f"ONNX Runtime {onnxruntime.__version__} cannot read the graph: {error}") from error
        model = onnx.load(path)
    # It names every domain that it knows; another reader may not.
    used = [each for each in model.opset_import if each.domain in {node.domain for node in model.graph.node}]
    del model.opset_import[:]
    model.opset_import.extend(used)
    simple: bytes = model.SerializeToString(deterministic=True)
    return simple


def _feed_bytes(graph: onnx.GraphProto, quantize: onnx.NodeProto) -> None:
    """Let the bytes of the photo stand where the graph quantized its input."""
    from onnx import numpy_helper

    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    scale, zero_point = values[quantize.input[1]], values[quantize.input[2]]
    if zero_point.dtype != "uint8" or int(zero_point) != 0 or abs(float(scale) * 255 - 1) > 1e-5:
        raise ExportError(
            f"the graph's input is quantized with scale {float(scale):.6g} and zero point {int(zero_point)}, but a "
            "photo's bytes are scale 1/255 and zero point 0"
        )
    quantized, name = quantize.output[0], quantize.input[0]
    graph.node.remove(quantize)
    others = [node.name for node in graph.node if name in node.input]
    if others:
        raise ExportError(f"{others[0]} reads the graph's input beside its quantization, so bytes cannot stand there")
    for node in graph.node:
        node.input[:] = [PLANES if read == quantized else read for read in node.input]


def _leave_out_zeros(graph: onnx.GraphProto) -> None:
    """Leave out the zero points of what is symmetric by channels, which are zero unless they are said.

    ONNX Runtime's convolution goes through them all at every call: seen on 2 cores, INT8 mobilenet_v2 at 64 pixels
    takes 0.965 of its time without.
    """
    from onnx import numpy_helper

    zeros = {tensor.name for tensor in graph.initializer if tensor.dims and not numpy_helper.to_array(tensor).any()}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and len(node.input) == 3 and node.input[2] in zeros:
            del node.input[2]


def _widen_first_convolution(graph: onnx.GraphProto) -> bool:
    """Return whether the image is read by one INT8 convolution of three channels, whose weights now have four."""
    import numpy as np
    from onnx import numpy_helper

    def readers(name: str) -> list[onnx.NodeProto]:
        return [node for node in graph.node if name in node.input]

    dequantize = readers(PLANES)
    if len(dequantize) != 1 or dequantize[0].op_type != "DequantizeLinear":
        return False
    convolution = readers(dequantize[0].output[0])
    if len(convolution) != 1 or convolution[0].op_type != "Conv":
        return False
    weights = next((node for node in graph.node if convolution[0].input[1] in node.output), None)
    stored = {tensor.name: tensor for tensor in graph.initializer}
    if weights is None or weights.op_type != "DequantizeLinear" or weights.input[0] not in stored:
        return False
    tensor = stored[weights.input[0]]
    values = numpy_helper.to_array(tensor)
    if values.shape[1] != 3:
        return False
    wide = np.concatenate([values, np.zeros_like(values[:, :1])], axis=1)
    tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))
    return True


def _widen_pixels(graph: onnx.GraphProto, core: Core) -> None:
    """Give each pixel of the photo's rows a fourth channel, which repeats the first.

    Seen on squeezenet1_1, 2 cores: 0.13 ms, where one pixel at a time takes 0.18, and Pad and Concat more.
    """
    import numpy as np
    from onnx import helper, numpy_helper

    pixels = core.height * core.width
    together = next(count for count in TOGETHER if pixels % count == 0)
    sizes = {
        "image_groups_shape": [0, pixels // together, 3 * together],
        "image_channel_order": [3 * pixel + channel for pixel in range(together) for channel in (0, 1, 2, 0)],
        "image_fours_shape": [0, core.height, core.width, 4],
    }
    graph.initializer.extend(
        numpy_helper.from_array(np.array(each, dtype=np.int64), name) for name, each in sizes.items()
    )
    groups, order, shape = sizes
    ways: list[tuple[str, list[str], dict[str, Any]]] = [
        ("Reshape", [groups], {}),
        ("Transpose", [], {"perm": [0, 2, 1]}),
        ("Gather", [order], {"axis": 1}),
        ("Transpose", [], {"perm": [0, 2, 1]}),
        ("Reshape", [shape], {}),
    ]
    names = [core.name, *(f"image_widened_{step}" for step in range(1, len(ways))), FOURS]
    for step, (kind, stored, how) in enumerate(ways):
        node = helper.make_node(kind, [names[step], *stored], [names[step + 1]], name=f"widen_{step}", **how)
        graph.node.insert(step, node)


def _feed_floats(graph: onnx.GraphProto, name: str) -> None:
    """Turn bytes into floats, and divide by 255 in the first convolution's weights or, without one, explicitly."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    readers = [node for node in graph.node if name in node.input]
    weights = {tensor.name: tensor for tensor in graph.initializer}
    fold = len(readers) == 1 and readers[0].op_type == "Conv" and readers[0].input[1] in weights
    for node in readers:
        node.input[:] = [FLOATS if read == name else read for read in node.input]
    if fold:
        weight = weights[readers[0].input[1]]
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) / np.float32(255), weight.name))
    else:
        graph.initializer.append(numpy_helper.from_array(np.array(255, dtype=np.float32), "image_levels"))
        graph.node.insert(0, helper.make_node("Div", [PIXELS, "image_levels"], [FLOATS], name="to_shares"))
    graph.node.insert(
        0, helper.make_node("Cast", [PLANES], [FLOATS if fold else PIXELS], name="to_floats", to=TensorProto.FLOAT)
    )
