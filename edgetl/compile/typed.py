"""Knows graphs as TensorRT takes them, typed: checks that it takes one and fuses what it should, with no GPU, and gives
one in float32.

The rules are those of its ONNX parser and of its quantization guide; a graph that breaks one fails on the device, after
minutes, or builds and is slow.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from edgetl.errors import ExportError

if TYPE_CHECKING:
    import onnx

__all__ = ["check_typed", "in_float32"]

# What TensorRT 10.3 of JetPack 6 parses, and what float16 scales need.
OPSET = 19
QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
# What TensorRT fuses with the convolution before it.
FUSED = {"Relu", "Clip", "BatchNormalization"}
# Operator -> the axis of its weight that holds output channels.
CHANNEL_AXES = {"Conv": 0, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1}


def check_typed(model: onnx.ModelProto) -> None:
    """Return if TensorRT takes the graph as it is typed.

    Raises:
        ExportError: names the node and the rule that it breaks.
    """
    import onnx

    opset = next((each.version for each in model.opset_import if each.domain in {"", "ai.onnx"}), None)
    if opset != OPSET or len(model.opset_import) != 1:
        raise ExportError(f"a graph for TensorRT is of opset {OPSET} and no other, found {_opsets(model)}")
    try:
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    except onnx.shape_inference.InferenceError as error:
        raise ExportError(f"types do not fit each other in the graph: {error}") from error
    _Checker(inferred.graph).check()


def in_float32(graph: bytes) -> bytes:
    """Return a serialized typed graph with float32 in place of float16; its weights and scales keep their values.

    A CPU has no float16 and converts around every operator: for ONNX Runtime, Q/DQ take eight times as long that way.
    """
    import numpy as np
    import onnx
    from onnx import TensorProto, numpy_helper

    model = onnx.load_from_string(graph)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for node in model.graph.node:
        for each in node.attribute:
            if node.op_type == "Cast" and each.name == "to" and each.i == TensorProto.FLOAT16:
                each.i = TensorProto.FLOAT
            elif each.HasField("t") and each.t.data_type == TensorProto.FLOAT16:
                each.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(each.t).astype(np.float32)))
    del model.graph.value_info[:]
    plain: bytes = model.SerializeToString(deterministic=True)
    return plain


def _opsets(model: onnx.ModelProto) -> str:
    return ", ".join(f"{each.domain or 'ai.onnx'} {each.version}" for each in model.opset_import)


def _channel_axis(reader: onnx.NodeProto, otherwise: int) -> int:
    """Return the axis of an operator's weight that holds its output channels."""
    if reader.op_type == "Gemm" and any(each.name == "transB" and each.i for each in reader.attribute):
        return 0
    return CHANNEL_AXES.get(reader.op_type, otherwise)


class _Checker:
    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.makers = {name: node for node in graph.node for name in node.output}
        self.readers = Counter(name for node in graph.node for name in node.input)
        self.types = {
            value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output)
        } | {tensor.name: tensor.data_type for tensor in graph.initializer}

    def check(self) -> None:
        for node in self.graph.node:
            if node.op_type in {QUANTIZE, DEQUANTIZE}:
                self._check_scale(node)
                self._check_zero_point(node)
            if node.op_type == QUANTIZE and self.types.get(node.input[0]) != self.types.get(node.input[1]):
                raise ExportError(f"{node.name}: its scale is of another type than what it quantizes")
            if node.op_type in FUSED and self._passes_quantized(node.input[0]) == "Conv":
                raise ExportError(f"{node.name}: Q/DQ stand between it and its convolution, which breaks their fusion")
            if node.op_type == "Add":
                self._check_add(node)
        for output in self.graph.output:
            if self._makes(output.name) in {QUANTIZE, DEQUANTIZE}:
                raise ExportError(f"{output.name}: the output is quantized, and nothing gains by it")

    def _check_scale(self, node: onnx.NodeProto) -> None:
        import numpy as np
        from onnx import numpy_helper

        if node.input[1] not in self.constants:
            raise ExportError(f"{node.name}: its scale is no constant")
        scale = numpy_helper.to_array(self.constants[node.input[1]])
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            raise ExportError(f"{node.name}: a scale is not positive and finite, as its type holds it")
        if scale.size == 1:
            return
        axis = next((each.i for each in node.attribute if each.name == "axis"), 1)
        if not self._is_weight(node.input[0]):
            raise ExportError(f"{node.name}: an activation is quantized per channel; TensorRT takes one scale for it")
        for reader in self._readers_of_weight(node):
            if axis != _channel_axis(reader, axis):
                raise ExportError(
                    f"{node.name}: the weight of {reader.op_type} {reader.name} is quantized along axis {axis}, its "
                    f"output channels are axis {_channel_axis(reader, axis)}"
                )

    def _check_zero_point(self, node: onnx.NodeProto) -> None:
        from onnx import TensorProto, numpy_helper

        if len(node.input) < 3 or node.input[2] not in self.constants:
            raise ExportError(f"{node.name}: has no constant zero point, so its type would be unsigned")
        point = self.constants[node.input[2]]
        if point.data_type != TensorProto.INT8:
            kind = TensorProto.DataType.Name(point.data_type)
            raise ExportError(f"{node.name}: its zero point is {kind}; TensorRT takes INT8 only")
        if numpy_helper.to_array(point).any():
            raise ExportError(f"{node.name}: a zero point is not 0; TensorRT only supports symmetric quantization")

    def _check_add(self, node: onnx.NodeProto) -> None:
        # A convolution whose output goes elsewhere too could not be fused with this Add in any case.
        behind = [self._passes_quantized(name) for name in node.input if self._reads_alone(name)]
        if "Conv" in behind and "Conv" not in [self._makes(name) for name in node.input]:
            raise ExportError(f"{node.name}: Q/DQ stand between it and its convolution, which breaks their fusion")

    def _makes(self, name: str) -> str | None:
        """Return the operator that gives a tensor."""
        return self.makers[name].op_type if name in self.makers else None

    def _passes_quantized(self, name: str) -> str | None:
        """Return the operator whose output comes through a pair of Q/DQ as this tensor; None where none does."""
        for kind in (DEQUANTIZE, QUANTIZE):
            if self._makes(name) != kind:
                return None
            name = self.makers[name].input[0]
        return self._makes(name)

    def _reads_alone(self, name: str) -> bool:
        """Say whether a tensor, and what it was before its Q/DQ, go to one reader only."""
        while self.readers[name] == 1:
            if self._makes(name) not in {QUANTIZE, DEQUANTIZE}:
                return True
            name = self.makers[name].input[0]
        return False

    def _is_weight(self, name: str) -> bool:
        """Say whether a tensor is a constant, or one that was quantized or cast."""
        while name in self.makers and self.makers[name].op_type in {QUANTIZE, DEQUANTIZE, "Cast"}:
            name = self.makers[name].input[0]
        return name in self.constants

    def _readers_of_weight(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Return the operators that read a weight behind its Q/DQ."""
        readers = [each for each in self.graph.node if node.output[0] in each.input]
        return [
            reader
            for each in readers
            for reader in (self._readers_of_weight(each) if each.op_type in {QUANTIZE, DEQUANTIZE, "Cast"} else [each])
        ]
