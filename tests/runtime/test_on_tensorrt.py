"""Tests of edgetl/runtime/on_tensorrt.py and of the builder of plans: what the common suite does not ask."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from install import VERSIONS, install

from edgetl.bundle import Artifact
from edgetl.compile import compile_graph
from edgetl.compile.for_tensorrt import build_plan
from edgetl.errors import DeviceLostError, ExportError, MissingError, SessionError
from edgetl.records import Execution, ImageArray, Quiet
from edgetl.runtime import open_artifact
from edgetl.runtime.cudart import open_cuda
from edgetl.runtime.on_tensorrt import TensorRtSession

HOW = Execution(device="cuda", batch_sizes=(1, 4), workspace_bytes=1 << 28)


def draw(count: int) -> ImageArray:
    return np.random.default_rng(0).integers(0, 256, (count, 33, 33, 3), dtype=np.uint8)


@pytest.fixture(params=VERSIONS)
def fakes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    return install(monkeypatch, request.param)


@pytest.fixture(scope="module")
def artifact(tiny_core: Any) -> tuple[bytes, Artifact]:
    compiled = compile_graph(tiny_core.SerializeToString(), "tensorrt")
    described = Artifact(
        path="model.onnx", engine="tensorrt", precision="fp16", execution=HOW, input=compiled.input,
        output=compiled.output,
    )  # fmt: skip
    return compiled.content.graph, described


def build(artifact: tuple[bytes, Artifact], timing_cache: bytes = b"", progress: Any = None) -> Any:
    graph, described = artifact
    return build_plan(graph, described.input, described.execution, timing_cache, progress or Quiet())


class TestBuild:
    def test_the_builders_phases_are_shown(self, fakes: Any, artifact: Any, lines: Any) -> None:
        build(artifact, progress=lines)
        assert [what for what, _ in lines.counted] == ["Building Engine", "Serializing"]

    def test_a_timing_cache_is_used_again(self, fakes: Any, artifact: Any) -> None:
        first = build(artifact).timing_cache
        assert build(artifact, first).timing_cache.startswith(first)

    def test_a_timing_cache_of_another_device_is_put_aside(self, fakes: Any, artifact: Any) -> None:
        assert build(artifact, b"of another GPU").timing_cache == build(artifact).timing_cache

    def test_what_the_parser_refuses_is_said_in_its_words(self, fakes: Any, artifact: Any) -> None:
        with pytest.raises(ExportError, match=r"TensorRT 1[01]\.\d\.0 cannot read the graph: In node -1 with name"):
            build((b"junk", artifact[1]))

    def test_what_cannot_be_built_is_said_in_the_builders_words(self, fakes: Any, artifact: Any) -> None:
        fakes[0]._knobs.fail = lambda graph: True
        message = r"cannot build the graph: Could not infer output types for operation: dequantize"
        with pytest.raises(ExportError, match=message):
            build(artifact)

    def test_ctrl_c_that_wakes_nobody_is_seen_all_the_same(self, fakes: Any, artifact: Any) -> None:
        """The signal comes to another thread, as if just before the one that waits for the build fell asleep."""

        class Pressed(Quiet):
            def count(self, what: str, total: int) -> Any:
                signal.pthread_kill(threading.get_ident(), signal.SIGINT)
                return super().count(what, total)

        fakes[0]._knobs.build_seconds = 10
        # Python's own handler: that of the command line, which another test may have set, remembers.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        started = time.monotonic()
        try:
            with pytest.raises(KeyboardInterrupt):
                build(artifact, progress=Pressed())
        finally:
            signal.signal(signal.SIGINT, before)
        assert time.monotonic() - started < 5

    def test_progress_that_fails_cancels_the_build(self, fakes: Any, artifact: Any) -> None:
        def fail(done: int) -> None:
            raise BrokenPipeError

        class Broken(Quiet):
            def count(self, what: str, total: int) -> Any:
                return nullcontext(fail)

        with pytest.raises(ExportError, match="the progress monitor cancelled the build"):
            build(artifact, progress=Broken())

    def test_a_machine_without_a_gpu_is_told_so(self, fakes: Any, artifact: Any) -> None:
        fakes[1]._state.gpu = False
        with pytest.raises(MissingError, match=r"TensorRT 1[01]\.\d\.0 finds no GPU that it can use here: pybind11"):
            build(artifact)
        with pytest.raises(MissingError, match=r"no GPU can be used here \(bindings: the GPU does not answer: .* 100"):
            open_cuda()

    @pytest.mark.parametrize("version", ["8.6.2", "10.0.1"])
    def test_a_tensorrt_of_an_older_jetpack_is_refused(self, version: str, fakes: Any, artifact: Any) -> None:
        fakes[0].__version__ = version
        with pytest.raises(MissingError, match=rf"TensorRT {version} is too old: .* comes with JetPack 6\.1"):
            build(artifact)


class TestSession:
    @pytest.fixture
    def plan(self, fakes: Any, artifact: Any) -> bytes:
        return bytes(build(artifact).content)

    @pytest.mark.parametrize("spoil", ["junk", "half", "release", "device"])
    def test_a_plan_that_is_not_this_devices_is_refused(
        self, spoil: str, plan: bytes, fakes: Any, artifact: Any
    ) -> None:
        other = bytearray(plan)
        if spoil == "release":
            other[25] += 1
        if spoil == "device":
            fakes[1]._state.capability = (11, 0)
        content = {"junk": b"junk", "half": plan[: len(plan) // 2]}.get(spoil, bytes(other))
        message = "its plan was made by TensorRT" if spoil == "release" else "refuses its plan: .*"
        with pytest.raises(SessionError, match=rf"model\.onnx: .*{message}"):
            TensorRtSession(content, artifact[1], open_cuda())

    def test_without_a_plan_the_command_that_makes_it_is_said(
        self, fakes: Any, artifact: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("EDGETL_CACHE", str(tmp_path))
        from edgetl.records import ModelContent

        with pytest.raises(MissingError, match=r"this device has made no plan of it\. `edgetl compile` makes"):
            open_artifact(ModelContent(graph=artifact[0]), artifact[1])

    def test_a_shape_that_comes_again_is_launched_as_a_graph(self, plan: bytes, fakes: Any, artifact: Any) -> None:
        state = fakes[1]._state
        session = TensorRtSession(plan, artifact[1], open_cuda())
        for expected in (0, 1, 2):
            session.run(draw(1))
            assert state.launches == expected
        for expected in (2, 3):
            session.run(draw(4))
            assert state.launches == expected
        for _ in range(3):  # two images come seldom, by the target's word
            session.run(draw(2))
            assert state.launches == 3
        session.close()
        assert state.live() == {"memory": 0, "streams": 0, "graphs": 0}

    def test_a_network_that_cannot_be_recorded_is_run_as_it_is(
        self, plan: bytes, fakes: Any, artifact: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        session = TensorRtSession(plan, artifact[1], open_cuda())
        expected = session.run(draw(1))
        run, recording = session._enqueue, []

        def refuse_while_recording() -> None:
            stream = fakes[1]._state.streams[session._stream]
            if stream.recording is not None:
                recording.append(True)
                raise SessionError("operation not permitted when stream is capturing")
            run()

        monkeypatch.setattr(session, "_enqueue", refuse_while_recording)
        for _ in range(4):
            np.testing.assert_array_equal(session.run(draw(1)), expected)
        assert (len(recording), fakes[1]._state.launches) == (1, 0)
        session.close()
        assert fakes[1]._state.live() == {"memory": 0, "streams": 0, "graphs": 0}

    def test_a_gpu_without_room_is_said_and_nothing_stays_taken(
        self, plan: bytes, fakes: Any, artifact: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        allocate, calls = fakes[1].cudaMallocHost, []

        def full(size: int) -> Any:
            calls.append(size)
            return allocate(size) if len(calls) == 1 else (2, None)

        monkeypatch.setattr(fakes[1], "cudaMallocHost", full)
        with pytest.raises(SessionError, match="the GPU has no memory left for this: cudaMallocHost gives"):
            TensorRtSession(plan, artifact[1], open_cuda())
        assert fakes[1]._state.live() == {"memory": 0, "streams": 0, "graphs": 0}

    def test_a_device_that_is_lost_is_said_and_closing_does_not_fail(
        self, plan: bytes, fakes: Any, artifact: Any
    ) -> None:
        session = TensorRtSession(plan, artifact[1], open_cuda())
        session.run(draw(1))
        fakes[1]._state.lost = True
        for _ in range(2):
            with pytest.raises(DeviceLostError, match=r"the GPU does not answer: cuda\w+ gives CUDA error 46"):
                session.run(draw(1))
        session.close()
        with pytest.raises(SessionError, match="this session is closed"):
            session.run(draw(1))

    def test_images_of_a_wrong_shape_do_not_spoil_the_session(self, plan: bytes, fakes: Any, artifact: Any) -> None:
        session = TensorRtSession(plan, artifact[1], open_cuda())
        expected = session.run(draw(2))
        with pytest.raises(SessionError, match="input 'image' must be uint8"):
            session.run(draw(2)[:, 1:])
        np.testing.assert_array_equal(session.run(draw(2)), expected)
        session.close()
