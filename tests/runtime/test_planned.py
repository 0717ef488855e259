"""Tests of edgetl/runtime/planned.py: ONNX Runtime answers until the plan is there and proved."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest

from edgetl.bundle import Bundle
from edgetl.errors import DeviceLostError, ExportError, MissingError
from edgetl.records import FloatArray, Quiet
from edgetl.runtime import Predictor, Session, open_session, verify_bundle
from edgetl.runtime.planned import compile_bundle


def golden_of(bundle: Bundle, path: str) -> tuple[Any, FloatArray, float]:
    """Return the golden images, what an artifact answers to them, and how far an answer may be off."""
    golden = bundle.manifest.golden
    assert golden is not None
    expected = golden.expected[path]
    return np.load(bundle.folder / golden.inputs), np.load(bundle.folder / expected.logits), expected.tolerance


def answers_as(session: Session, bundle: Bundle, path: str) -> bool:
    images, logits, tolerance = golden_of(bundle, path)
    return bool(np.abs(session.run(images) - logits).max() <= tolerance)


def wait_for_the_plan() -> None:
    for thread in threading.enumerate():
        if thread.name == "edgetl-plan":
            thread.join(60)
            assert not thread.is_alive()


class TestCompile:
    def test_the_first_artifact_that_can_be_built_is_proved_and_kept(self, jetson: Any) -> None:
        made = compile_bundle(jetson.bundle, Quiet())
        assert (made.path, made.failed) == ("model.onnx", ())
        session = open_session(Bundle.open(jetson.bundle))
        assert (session.artifact.path, session.degraded) == ("model.onnx", None)
        assert answers_as(session, Bundle.open(jetson.bundle), "model.onnx")
        session.close()
        assert jetson.cuda.live() == {"memory": 0, "streams": 0, "graphs": 0}

    def test_what_cannot_be_built_is_passed_over_and_said(
        self, jetson: Any, lines: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FAKE_TRT_FAIL", "fp16rest")
        made = compile_bundle(jetson.bundle, lines)
        assert made.path == "model-int8.onnx"
        (said,) = lines.said
        assert "passed over model.onnx (int8+fp16): TensorRT 1" in said
        assert "Could not infer output types for operation: dequantize" in said
        session = open_session(Bundle.open(jetson.bundle))
        assert (session.artifact.precision, session.degraded) == ("int8", None)

    def test_a_plan_that_answers_wrongly_is_passed_over(self, jetson: Any, lines: Any) -> None:
        graph = Bundle.open(jetson.bundle).read("model.onnx")
        jetson.trt._knobs.answers_wrongly = lambda found: found == graph
        assert compile_bundle(jetson.bundle, lines).path == "model-int8.onnx"
        assert "golden images are answered differently here" in lines.said[0]

    def test_a_device_that_can_build_none_says_why_of_each(self, jetson: Any) -> None:
        jetson.trt._knobs.fail = lambda graph: True
        with pytest.raises(ExportError, match=r"can build none of its artifacts: .*int8\+fp16.*int8.*fp16.*dequantize"):
            compile_bundle(jetson.bundle, Quiet())
        assert not list(jetson.plans.glob("*/model.plan"))

    def test_what_could_not_be_built_is_not_tried_again_where_another_plan_is_there(
        self, jetson: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FAKE_TRT_FAIL", "fp16rest")
        compile_bundle(jetson.bundle, Quiet())
        before = list(jetson.trt._knobs.builds)
        assert compile_bundle(jetson.bundle, Quiet()).path == "model-int8.onnx"
        assert jetson.trt._knobs.builds == before

    def test_a_plan_that_tensorrt_refuses_is_made_anew(self, jetson: Any, lines: Any) -> None:
        made = compile_bundle(jetson.bundle, Quiet())
        deserialize = jetson.trt.Runtime.deserialize_cuda_engine
        refused: list[bytes] = []

        def refuse_once(self: Any, plan: Any) -> Any:
            refused.append(bytes(plan))
            return None if len(refused) == 1 else deserialize(self, plan)

        jetson.trt.Runtime.deserialize_cuda_engine = refuse_once
        assert compile_bundle(jetson.bundle, lines).path == made.path
        assert lines.said[0].startswith("the plan that was kept is made anew: model.onnx: TensorRT 1")
        assert jetson.trt._knobs.builds.count("end") == 2

    def test_a_second_time_nothing_is_built_unless_forced(self, jetson: Any) -> None:
        for force, builds in ((False, 1), (False, 1), (True, 2)):
            compile_bundle(jetson.bundle, Quiet(), force)
            assert jetson.trt._knobs.builds.count("end") == builds

    def test_a_bundle_for_another_engine_runs_as_it_is(self, tiny_bundle: Any) -> None:
        assert compile_bundle(tiny_bundle, Quiet()).path is None


class TestBackground:
    def test_onnx_runtime_answers_at_once_and_the_plan_when_it_is_there(
        self, jetson: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setenv("FAKE_TRT_BUILD_SECONDS", "3")
        bundle = Bundle.open(jetson.bundle)
        session = open_session(bundle, build_plan=True)
        assert answers_as(session, bundle, "fallback.onnx")
        assert session.degraded == "onnxruntime on cpu answers instead, in fp32: there is no plan for this device yet"
        assert "answers instead, in fp32: there is no plan for this device yet; it is being built" in caplog.text
        wait_for_the_plan()
        assert (session.degraded, session.artifact.path) == (None, "model.onnx")
        assert answers_as(session, bundle, "model.onnx")
        assert "model.onnx answers now, through TensorRT" in caplog.text
        session.close()

    def test_nothing_fails_while_it_changes_over(self, jetson: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FAKE_TRT_BUILD_SECONDS", "0.5")
        with Predictor.open(jetson.bundle) as predictor:
            photo = jetson.bundle / "golden" / "000.jpg"
            labels = {predictor.predict(photo).label}
            deadline = time.monotonic() + 60
            while predictor.session.degraded and time.monotonic() < deadline:
                labels.add(predictor.predict(photo).label)
            labels.add(predictor.predict(photo).label)
            assert (predictor.session.degraded, len(labels)) == (None, 1)

    def test_a_build_that_fails_is_said_and_onnx_runtime_goes_on(
        self, jetson: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FAKE_TRT_FAIL", "all")
        bundle = Bundle.open(jetson.bundle)
        session = open_session(bundle, build_plan=True)
        wait_for_the_plan()
        assert session.degraded is not None
        assert "the plan could not be built: edgetl: ExportError: " in session.degraded
        assert "can build none of its artifacts" in session.degraded
        assert answers_as(session, bundle, "fallback.onnx")
        session.close()

    def test_closing_ends_the_build(self, jetson: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FAKE_TRT_BUILD_SECONDS", "60")
        session = open_session(Bundle.open(jetson.bundle), build_plan=True)
        session.close()
        wait_for_the_plan()
        assert not list(jetson.plans.glob("*/model.plan"))

    def test_without_leave_to_build_the_command_is_said(self, jetson: Any, caplog: pytest.LogCaptureFixture) -> None:
        session = open_session(Bundle.open(jetson.bundle))
        assert f"no plan for this device yet. Run: edgetl compile {jetson.bundle}" in caplog.text
        assert jetson.trt._knobs.builds == []
        session.close()


class TestLoss:
    def test_a_gpu_that_is_lost_is_an_error_or_a_fall_back_as_was_told(
        self, jetson: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        compile_bundle(jetson.bundle, Quiet())
        bundle = Bundle.open(jetson.bundle)
        images, _, _ = golden_of(bundle, "model.onnx")
        strict, lenient = open_session(bundle), open_session(bundle, fallback=True)
        for session in (strict, lenient):
            assert answers_as(session, bundle, "model.onnx")
        jetson.cuda.lost = True
        with pytest.raises(DeviceLostError, match="the GPU does not answer"):
            strict.run(images)
        assert answers_as(lenient, bundle, "fallback.onnx")
        assert lenient.degraded is not None
        assert lenient.degraded.startswith("onnxruntime on cpu answers instead, in fp32: the GPU does not answer: cuda")
        assert lenient.degraded in caplog.text
        strict.close()
        lenient.close()

    def test_a_machine_without_tensorrt_is_an_error_or_a_fall_back_as_was_told(
        self, typed_bundle: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setitem(sys.modules, "tensorrt", None)
        bundle = Bundle.open(typed_bundle)
        with pytest.raises(MissingError, match=r"TensorRT is needed .* it comes with JetPack: sudo apt-get"):
            open_session(bundle)
        with caplog.at_level(logging.WARNING):
            session = open_session(bundle, fallback=True)
        assert answers_as(session, bundle, "fallback.onnx")
        assert "onnxruntime on cpu answers instead, in fp32: TensorRT is needed to run this bundle" in caplog.text

    def test_verify_replays_what_can_be_run_and_names_what_cannot(
        self, typed_bundle: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "tensorrt", None)
        found = verify_bundle(typed_bundle)
        assert [each.path for each in found.replayed] == ["fallback.onnx"]
        assert [each.path for each in found.skipped] == ["model.onnx", "model-int8.onnx", "model-fp16.onnx"]

    def test_verify_replays_a_plan_where_there_is_one(self, jetson: Any) -> None:
        compile_bundle(jetson.bundle, Quiet())
        found = verify_bundle(jetson.bundle)
        assert [(each.path, each.engine) for each in found.replayed] == [
            ("model.onnx", "tensorrt"), ("fallback.onnx", "onnxruntime"),
        ]  # fmt: skip
        assert all("has made no plan of it" in each.reason for each in found.skipped)


FIRST_ANSWER = """
import json, sys
from edgetl import Predictor
with Predictor.open(sys.argv[1]) as predictor:
    asked = True
    while asked:
        predictor.predict(sys.argv[2])
        print(json.dumps([predictor.session.degraded, predictor.session.artifact.engine]), flush=True)
        asked = sys.stdin.readline()
"""


@pytest.mark.slow
def test_the_first_answer_comes_at_once_though_the_plan_takes_half_a_minute(
    jetson: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TRT_BUILD_SECONDS", "30")
    photo = jetson.bundle / "golden" / "000.jpg"

    started = time.monotonic()
    told = [sys.executable, "-m", "edgetl", "predict", str(jetson.bundle), str(photo)]
    ran = subprocess.run(told, capture_output=True, text=True, check=True)
    predicted = time.monotonic() - started
    assert "onnxruntime on cpu answers instead, in fp32: there is no plan for this device yet" in ran.stderr

    started = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-c", FIRST_ANSWER, str(jetson.bundle), str(photo)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as server:  # fmt: skip
        assert server.stdin is not None and server.stdout is not None
        first = last = json.loads(server.stdout.readline())
        answered = time.monotonic() - started
        while last == first:
            assert time.monotonic() - started < 120
            time.sleep(0.2)
            server.stdin.write("\n")
            server.stdin.flush()
            last = json.loads(server.stdout.readline())
        assert time.monotonic() - started > 25
        _, said = server.communicate(timeout=30)
    sys.stderr.write(f"first answer after {predicted:.2f} s (predict) and {answered:.2f} s (a long-running program)\n")
    assert first == ["onnxruntime on cpu answers instead, in fp32: there is no plan for this device yet", "onnxruntime"]
    assert last == [None, "tensorrt"]
    assert "model.onnx answers now, through TensorRT" in said
    assert predicted <= 1.5, f"edgetl predict took {predicted:.2f} s"
    assert answered <= 1.5, f"a long-running program took {answered:.2f} s"
