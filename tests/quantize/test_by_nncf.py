"""Tests of edgetl/quantize/by_nncf.py."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

pytest.importorskip("nncf", reason="NNCF quantizes these graphs")

from edgetl.compile import compile_graph
from edgetl.errors import CalibrationError, MissingError
from edgetl.export import CoreSession
from edgetl.quantize import calibrate, quantize_for
from edgetl.quantize.by_nncf import quantize_by_nncf
from edgetl.recipe import CalibrationRecipe, load_recipe
from tests.quantize.test_by_onnxruntime import batches, draw, network, quantization_of, run, weights_of

NNCF = load_recipe("nncf")


def named() -> onnx.ModelProto:
    """Return the network with a name for every layer, as exported graphs have."""
    model = network()
    for node in model.graph.node:
        node.name = f"make_{node.output[0]}"
    return model


@pytest.fixture(scope="module")
def quantized() -> onnx.ModelProto:
    return quantize_by_nncf(named(), batches(), NNCF)


def recipe(**changed: Any) -> CalibrationRecipe:
    return NNCF.model_copy(update=changed)


def convolutions_in_float(model: onnx.ModelProto) -> set[str]:
    stored = {tensor.name for tensor in model.graph.initializer}
    return {node.name for node in model.graph.node if node.op_type == "Conv" and node.input[1] in stored}


def test_it_answers_about_as_the_float_graph(quantized: onnx.ModelProto) -> None:
    expected = run(named(), draw(16, 99))
    assert np.abs(run(quantized, draw(16, 99)) - expected).mean() <= 0.05 * np.abs(expected).max()


def test_the_images_bytes_are_the_first_quantized_activation(quantized: onnx.ModelProto) -> None:
    assert quantization_of(quantized, "image") == (pytest.approx(1 / 255), 0)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_engines_take_it(engine: str, quantized: onnx.ModelProto) -> None:
    pytest.importorskip(engine, reason="compiles for it")
    made = compile_graph(quantized.SerializeToString(), engine)
    assert made.input.dtype == "uint8"


def test_every_convolution_has_weights_of_8_bits_and_the_head_stays_in_float(quantized: onnx.ModelProto) -> None:
    onnx.checker.check_model(quantized, full_check=True)
    assert len(weights_of(quantized)) == 4
    assert convolutions_in_float(quantized) == set()
    head = next(node for node in quantized.graph.node if node.op_type in {"Gemm", "MatMul"})
    assert (
        numpy_helper.to_array(
            next(tensor for tensor in quantized.graph.initializer if tensor.name == head.input[1])
        ).dtype
        == np.float32
    )


def test_layers_that_are_named_stay_in_float() -> None:
    found = quantize_by_nncf(named(), batches(), NNCF, ["make_mixed"])
    assert convolutions_in_float(found) == {"make_mixed"}


@pytest.mark.parametrize("changed", [{"preset": "performance"}, {"bias_correction": True}, {"transformer": True}])
def test_its_other_schemes_serve_too(changed: dict[str, Any]) -> None:
    expected = run(named(), draw(16, 99))
    found = CoreSession(quantize_by_nncf(named(), batches(), recipe(**changed)).SerializeToString())
    assert np.abs(found.run(draw(16, 99)) - expected).mean() <= 0.08 * np.abs(expected).max()
    assert quantization_of(quantize_by_nncf(named(), batches(), recipe(**changed)), "image")[1] == 0


def test_the_float_graph_is_left_as_it_was_and_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    model = named()
    before = model.SerializeToString()
    quantize_by_nncf(model, batches(1), NNCF)
    assert model.SerializeToString() == before
    assert capsys.readouterr().out == ""


def test_an_engine_gets_it_by_the_recipe() -> None:
    model = named()
    made = quantize_for("openvino", model, calibrate(model, batches(1), NNCF), batches(1), NNCF, ["int8"])
    assert list(made) == ["int8"]
    assert len(weights_of(made["int8"])) == 4


def test_fp16_comes_beside_it(quantized: onnx.ModelProto) -> None:
    pytest.importorskip("modelopt", reason="ModelOpt types the graph")
    model = named()
    made = quantize_for("openvino", model, calibrate(model, batches(), NNCF), iter(batches()), NNCF, ["int8", "fp16"])
    assert made["int8"].SerializeToString(deterministic=True) == quantized.SerializeToString(deterministic=True)
    assert any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in made["fp16"].graph.initializer)


def test_no_image_calibrates_nothing() -> None:
    with pytest.raises(CalibrationError, match="no image came to calibrate with"):
        quantize_by_nncf(named(), [], NNCF)


def test_what_it_refuses_is_said() -> None:
    with pytest.raises(CalibrationError, match=r"NNCF \S+ cannot quantize this network: .*make_gone"):
        quantize_by_nncf(named(), batches(1), NNCF, ["make_gone"])


def test_without_it_the_command_that_installs_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(
        MissingError, match=r"nncf is needed to quantize by recipe nncf .*pip install 'edgetl\[train\]'"
    ):
        quantize_by_nncf(named(), batches(1), NNCF)
