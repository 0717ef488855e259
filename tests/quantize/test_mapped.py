"""Tests of edgetl/quantize/mapped.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgetl.quantize.mapped import open_mapped, without_initializers, without_weights
from edgetl.records import FloatArray

make = helper.make_node
# Opens a graph and runs it; prints by how many bytes the process grew over what it held with the graph loaded.
GROWN = """
import sys
from pathlib import Path

import numpy as np
import onnx

from edgetl.quantize.mapped import open_mapped

def held(what):
    (line,) = (each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith(what))
    return int(line.split()[1]) * 1024

model = onnx.load(sys.argv[1])
Path("/proc/self/clear_refs").write_text("5")
before = held("VmRSS")
open_mapped(model).run(None, {"image": np.ones((1, 3, 8, 8), np.float32)})
print(held("VmHWM") - before)
"""


def network(channels: int = 16, layers: int = 2) -> onnx.ModelProto:
    """Return a core graph of convolutions; biases are smaller than what lies in the file, two weights are larger."""
    draw = np.random.default_rng(0)
    nodes, tensors, last, width = [], [], "image", 3
    for number in range(layers):
        weight = draw.normal(0, 1 / np.sqrt(9 * width), (channels, width, 3, 3)).astype(np.float32)
        tensors += [numpy_helper.from_array(weight, f"w{number}")]
        tensors += [numpy_helper.from_array(draw.normal(0, 1, channels).astype(np.float32), f"b{number}")]
        nodes.append(make("Conv", [last, f"w{number}", f"b{number}"], [f"c{number}"], pads=[1, 1, 1, 1]))
        nodes.append(make("Relu", [f"c{number}"], [f"r{number}"]))
        last, width = f"r{number}", channels
    nodes.append(make("GlobalAveragePool", [last], ["logits"]))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["images", 3, 8, 8])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "core", [image], [logits], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def feed() -> dict[str, FloatArray]:
    return {"image": np.random.default_rng(1).random((2, 3, 8, 8), dtype=np.float32)}


def test_it_answers_as_the_graph_does_with_its_weights_in_it() -> None:
    model = network()
    before = model.SerializeToString()
    plain = onnxruntime.InferenceSession(before, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(
        open_mapped(model).run(None, feed())[0], plain.run(None, feed())[0], rtol=1e-5, atol=1e-6
    )
    assert model.SerializeToString() == before


def test_nodes_tensors_and_outputs_may_be_added() -> None:
    more = onnx.GraphProto(
        node=[make("Mul", ["c0", "three"], ["thrice"])],
        initializer=[numpy_helper.from_array(np.array(3, dtype=np.float32), "three")],
        output=[onnx.ValueInfoProto(name="c0"), onnx.ValueInfoProto(name="thrice")],
    )
    once, thrice = open_mapped(network(), more).run(["c0", "thrice"], feed())
    assert np.abs(once).max() > 0
    np.testing.assert_allclose(thrice, 3 * once, rtol=1e-6)


def test_integer_kernels_may_be_left_out() -> None:
    entry = "session.disable_quant_qdq"
    assert open_mapped(network(), as_defined=True).get_session_options().get_session_config_entry(entry) == "1"
    with pytest.raises(RuntimeError, match=entry):
        open_mapped(network()).get_session_options().get_session_config_entry(entry)


def test_all_but_the_tensors_is_copied() -> None:
    model = network()
    model.producer_name, model.metadata_props.add().key = "somebody", "why"
    model.graph.value_info.add().name = "c0"
    rest = without_initializers(model)
    assert len(model.graph.initializer) == 4
    del model.graph.initializer[:]
    assert rest == model


def test_shapes_are_inferred_without_the_weights() -> None:
    model, light = network(), without_weights(network())
    assert [len(tensor.raw_data) > 0 for tensor in light.graph.initializer] == [False, True, False, True]
    expected, found = (onnx.shape_inference.infer_shapes(each).graph.value_info for each in (model, light))
    assert list(expected) == list(found)
    assert {each.name for each in found} == {"c0", "r0", "c1", "r1"}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system does not tell a process its peak")
def test_memory_holds_the_weights_once_more(tmp_path: Path) -> None:
    model = network(channels=640, layers=6)
    weights = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    assert weights > 70e6
    onnx.save(model, tmp_path / "model.onnx")
    asked = [sys.executable, "-c", GROWN, str(tmp_path / "model.onnx")]
    grown = int(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)
    assert 0.5 * weights < grown < 1.5 * weights
