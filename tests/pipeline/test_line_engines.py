"""Tests of a build for every engine but the one that the other tests build for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgetl import __version__
from edgetl.bundle import Bundle
from edgetl.compile.openvino_core import the_core
from edgetl.pipeline import BuildReport, BuildSettings, build
from edgetl.runtime import ENGINES, Predictor, on_openvino, verify_bundle

SHARED = ["check", "view", "decoded", "frozen", "tuned", "exported", "reference", "calibrated"]


@pytest.fixture(params=sorted(set(ENGINES) - {"onnxruntime", "tensorrt"}))
def engine(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(request.param, reason=f"the engine {request.param} is not installed here")
    return str(request.param)


@pytest.fixture
def other(engine: str, built: Bundle, settings: BuildSettings, write_target: Callable[..., str], lines: Any) -> Bundle:
    """Return the small build's bundle for another engine, made after the one for ONNX Runtime."""
    target = write_target(engine=engine, accuracy_drop_points=100)
    return build(settings.model_copy(update={"target": target}), lines)


def test_every_stage_before_the_engines_own_is_shared(other: Bundle, lines: Any) -> None:
    done = [line.partition(":")[0] for line in lines.said if line.endswith("already done")]
    assert done[: len(SHARED)] == SHARED


def test_the_bundle_says_its_engine_and_verifies(other: Bundle, engine: str) -> None:
    verified = verify_bundle(other.folder)
    (one,) = verified.replayed
    assert (one.engine, one.precision) == (engine, other.manifest.artifact.precision)
    assert one.golden.top1_agreement == 1.0
    assert f"pip install './edgetl-{__version__}-py3-none-any.whl[{engine}]'" in other.read("README.md").decode()


def test_the_float_artifact_was_proved_on_the_engine(other: Bundle) -> None:
    report = BuildReport.model_validate_json(other.read("report.json"))
    assert all(rung.parity.max_relative_error <= 1e-3 for rung in report.judged.of("fp32").rungs)
    assert [each.precision for each in report.judged.measured] == ["fp32", "int8"]


def test_it_answers_as_the_bundle_for_onnx_runtime(other: Bundle, built: Bundle, colours: Path) -> None:
    photos = sorted(colours.rglob("*.png"))
    with Predictor.open(other.folder) as one, Predictor.open(built.folder) as reference:
        same = [
            a.label == b.label for a, b in zip(one.predict_batch(photos), reference.predict_batch(photos), strict=True)
        ]
    assert np.mean(same) >= 0.95


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_fp16_is_in_the_graph_and_half_as_large(
    name: str, built: Bundle, settings: BuildSettings, write_target: Callable[..., str]
) -> None:
    pytest.importorskip(name, reason=f"the engine {name} is not installed here")
    pytest.importorskip("modelopt", reason="ModelOpt types the graph")
    target = write_target(engine=name, precisions=("fp16", "fp32"))
    bundle = build(settings.model_copy(update={"target": target, "precision": "fp16"}))
    report = BuildReport.model_validate_json(bundle.read("report.json"))
    plain, halved = (report.judged.of(precision).size_bytes for precision in ("fp32", "fp16"))
    assert halved < 0.7 * plain
    assert report.judged.damage.drop.points == 0
    assert report.calibration is None
    assert len(verify_bundle(bundle.folder).replayed) == 1


@pytest.mark.parametrize(("has", "said"), [(True, "openvino on cpu"), (False, "openvino on cpu, in float32")])
def test_bfloat16_is_how_openvino_computes_the_float_graph_where_the_cpu_has_it(
    has: bool, said: str, built: Bundle, settings: BuildSettings, write_target: Callable[..., str], own_stages: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    pytest.importorskip("openvino", reason="the engine openvino is not installed here")
    if has and not on_openvino._has_bfloat16(the_core("run this test")):
        pytest.skip("this CPU has no bfloat16")
    monkeypatch.setattr(on_openvino, "_has_bfloat16", lambda core: has)
    target = write_target(engine="openvino", precisions=("bf16", "fp32"))
    bundle = build(settings.model_copy(update={"target": target, "precision": "bf16"}))
    report = BuildReport.model_validate_json(bundle.read("report.json"))
    plain, short = (report.judged.of(precision).size_bytes for precision in ("fp32", "bf16"))
    assert short == plain
    assert report.judged.damage.drop.points == 0
    assert [(rung.answered_by, rung.against) for rung in bundle.manifest.ladder[-2:]] == [
        ("fp32 as ONNX defines it", "fp32"),
        ("bf16 on openvino, cpu" if has else "bf16 on openvino, cpu, in float32", "fp32 as ONNX defines it"),
    ]
    assert report.judged.of("bf16").answered_by == said
    assert bundle.manifest.ladder[-2].parity.max_relative_error < 1e-3
    assert len(verify_bundle(bundle.folder).replayed) == 1
