"""Tests of edgetl/cli/compile.py, and of the other verbs on a bundle whose device makes a plan for itself."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from install import install, write_path

from edgetl.bundle import Bundle, Manifest, write_bundle, write_file
from edgetl.compile import compile_graph
from edgetl.records import Execution
from edgetl.runtime import expect
from edgetl.runtime.golden import Skipped, Verified

Run = Callable[..., Any]


@pytest.fixture
def jetson_bundle(tiny_bundle: Path, tiny_core: Any, tmp_path: Path) -> Path:
    """Return a bundle for TensorRT in float, with its fall-back."""
    plain = Bundle.open(tiny_bundle)
    made = compile_graph(tiny_core.SerializeToString(), "tensorrt")

    def compose(out: Path) -> Manifest:
        shutil.copytree(tiny_bundle, out, dirs_exist_ok=True)
        (out / "manifest.json").unlink()
        (out / "model.onnx").rename(out / "fallback.onnx")
        write_file(out / "model.onnx", made.content.graph)
        fallback = plain.manifest.artifact.model_copy(update={"path": "fallback.onnx"})
        typed = fallback.model_copy(
            update={
                "path": "model.onnx", "engine": "tensorrt", "precision": "fp16",
                "execution": Execution(device="cuda"),
            }
        )  # fmt: skip
        golden, logits = plain.manifest.golden, np.load(tiny_bundle / "golden" / "model.npy")
        assert golden is not None
        for artifact in (typed, fallback):
            golden = expect(golden, out, artifact, logits, 1e-3)
        return plain.manifest.model_copy(update={"artifacts": (typed, fallback), "golden": golden, "files": {}})

    return write_bundle(tmp_path / "jetson", compose).folder


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give this process and its children a device with a fake TensorRT."""
    monkeypatch.setenv("EDGETL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(write_path(tmp_path / "fakes", "10.3.0")))
    return install(monkeypatch, "10.3.0")


def test_the_plan_is_built_and_said_and_the_next_commands(edgetl: Run, jetson_bundle: Path, device: Any) -> None:
    ran = edgetl("compile", jetson_bundle)
    assert ran.code == 0
    assert "the plan of model.onnx is in " in ran.out
    assert ran.out.splitlines()[-2:] == [f"  edgetl verify {jetson_bundle}", f"  edgetl bench {jetson_bundle}"]
    assert "Building Engine: 5 in " in ran.err
    again = edgetl("compile", jetson_bundle, "--json")
    assert again.json["path"] == "model.onnx"
    assert device[0]._knobs.builds.count("end") == 1
    assert edgetl("compile", jetson_bundle, "--force").code == 0
    assert device[0]._knobs.builds.count("end") == 2


def test_a_bundle_for_another_engine_has_nothing_to_compile(edgetl: Run, tiny_bundle: Path) -> None:
    ran = edgetl("compile", tiny_bundle)
    assert (ran.code, ran.out) == (0, f"{tiny_bundle} runs as it is: there is nothing to compile\n")


def test_a_device_that_cannot_build_it_says_why(edgetl: Run, jetson_bundle: Path, device: Any) -> None:
    device[0]._knobs.fail = lambda graph: True
    ran = edgetl("compile", jetson_bundle)
    assert ran.code == 3
    assert "passed over model.onnx (fp16): TensorRT 10.3.0 cannot build the graph" in ran.err
    assert "ExportError" in ran.err.splitlines()[-1]


@pytest.mark.parametrize("verb", ["compile", "predict", "bench"])
def test_a_machine_without_tensorrt_says_what_brings_it(
    verb: str, edgetl: Run, jetson_bundle: Path, tiny_photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    ran = edgetl(verb, jetson_bundle, *([tiny_photos[0]] if verb == "predict" else []))
    assert (ran.code, ran.out) == (4, "")
    assert "is not installed on this machine. On a Jetson it comes with JetPack" in ran.err
    way = "(or let onnxruntime on cpu in fp32 answer: --fallback, in Python fallback=True)"
    assert (way in ran.err) == (verb == "predict")


def test_predict_answers_through_the_fall_back_where_that_is_allowed(
    edgetl: Run, jetson_bundle: Path, tiny_photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    ran = edgetl("predict", jetson_bundle, tiny_photos[0], "--fallback", "--json")
    assert ran.code == 0
    assert ran.json["predictions"][0]["label"] in {"apple", "banana", "cherry"}
    assert "onnxruntime on cpu answers instead, in fp32: TensorRT is needed" in caplog.text


def test_predict_does_not_build_a_plan_but_says_how(
    edgetl: Run, jetson_bundle: Path, tiny_photos: tuple[Path, ...], device: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert edgetl("predict", jetson_bundle, tiny_photos[0]).code == 0
    assert f"there is no plan for this device yet. Run: edgetl compile {jetson_bundle}" in caplog.text
    assert device[0]._knobs.builds == []


def test_bench_builds_the_plan_first_and_measures_it(edgetl: Run, jetson_bundle: Path, device: Any) -> None:
    ran = edgetl("bench", jetson_bundle, "--seconds", 0.05, "--json")
    assert ran.code == 0, ran.err
    assert (ran.json["engine"], ran.json["device"], ran.json["degraded"]) == ("tensorrt", "cuda", None)
    assert device[0]._knobs.builds.count("end") == 1


def test_bench_measures_the_fall_back_where_that_is_allowed(
    edgetl: Run, jetson_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    ran = edgetl("bench", jetson_bundle, "--seconds", 0.05, "--fallback")
    assert ran.code == 0, ran.err
    assert "onnxruntime on cpu, fp32" in ran.out
    assert "degraded       onnxruntime on cpu answers instead, in fp32: TensorRT is needed" in ran.out


def test_verify_names_what_this_machine_cannot_replay_and_why_once(
    edgetl: Run, jetson_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def skipping(folder: Path) -> Verified:
        skipped = [Skipped(path=path, engine="tensorrt", reason="no GPU here") for path in ("a.onnx", "b.onnx")]
        return Verified(bundle=str(folder), engine="tensorrt", files=3, ladder=(), replayed=(), skipped=tuple(skipped))

    monkeypatch.setattr("edgetl.runtime.verify_bundle", skipping)
    ran = edgetl("verify", jetson_bundle)
    assert "not replayed here: a.onnx for tensorrt, b.onnx for tensorrt. no GPU here\n" in ran.out


def test_verify_says_that_only_the_fall_back_was_replayed(
    edgetl: Run, jetson_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    ran = edgetl("verify", jetson_bundle)
    assert ran.code == 0
    assert "not replayed here: model.onnx for tensorrt. TensorRT is needed to run this bundle" in ran.out
    assert "nothing was replayed on tensorrt, which the bundle is for: verify it on the device too\n" in ran.out
