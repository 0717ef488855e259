"""Tests of edgetl/runtime/plans.py: a plan is loaded only where nothing that it depends on has changed."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from edgetl.bundle import Artifact, Bundle
from edgetl.errors import DeviceLostError, MissingError, ParityError, SessionError
from edgetl.records import Quiet
from edgetl.runtime import plans
from edgetl.runtime.cudart import open_cuda
from edgetl.runtime.plans import PlanKey, find_plan, make_plan, plan_key

ONCE_MORE: dict[str, Any] = {
    "onnx_sha256": "0" * 64, "tensorrt": "10.3.1", "compute_capability": "11.0", "device_name": "Thor",
    "processors": 16, "architecture": "riscv64", "jetson_linux": "36.5.0", "cuda_runtime": 13000,
    "cuda_driver": 13000, "flags": ("TF32",), "hardware_level": "AMPERE_PLUS", "profile": ((1, 33, 33, 3),) * 3,
    "workspace_bytes": None, "optimization_level": 5,
}  # fmt: skip


@pytest.fixture
def made(jetson: Any) -> tuple[PlanKey, bytes, Artifact]:
    """Return the key, the graph and the artifact of a plan that was made."""
    bundle = Bundle.open(jetson.bundle)
    artifact = bundle.manifest.artifact
    graph = bundle.read_model(artifact).graph
    key = plan_key(graph, artifact, open_cuda())
    make_plan(key, graph, artifact, lambda plan: None, Quiet())
    return key, graph, artifact


def changed(key: PlanKey, field: str) -> PlanKey:
    if field in {"input", "output"}:
        return key.model_copy(update={field: getattr(key, field).model_copy(update={"name": "other"})})
    assert getattr(key, field) != ONCE_MORE[field]
    return key.model_copy(update={field: ONCE_MORE[field]})


class TestKey:
    def test_where_nothing_changed_the_plan_is_loaded(self, made: Any, jetson: Any) -> None:
        key, graph, artifact = made
        before = list(jetson.trt._knobs.builds)
        plan = find_plan(key)
        make_plan(key, graph, artifact, lambda plan: None, Quiet())
        assert plan is not None and find_plan(key) == plan
        assert jetson.trt._knobs.builds == before == ["begin", "end"]

    @pytest.mark.parametrize("field", PlanKey.model_fields)
    def test_where_one_thing_changed_the_plan_is_made_anew(self, field: str, made: Any, jetson: Any) -> None:
        key, graph, artifact = made
        other = changed(key, field)
        assert find_plan(other) is None
        make_plan(other, graph, artifact, lambda plan: None, Quiet())
        assert jetson.trt._knobs.builds.count("end") == 2
        assert find_plan(key) is not None

    @pytest.mark.parametrize("field", PlanKey.model_fields)
    def test_a_plan_that_lies_where_another_should_is_not_loaded(self, field: str, made: Any) -> None:
        key, _, _ = made
        other = changed(key, field)
        shutil.copytree(key.folder, other.folder)
        assert find_plan(other) is None

    def test_it_reads_the_device_as_it_is(self, made: Any, jetson: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        before, graph, artifact = made
        jetson.cuda.capability, jetson.cuda.driver_version, jetson.cuda.runtime_version = (11, 0), 13000, 13000
        jetson.cuda.properties.name, jetson.cuda.properties.multiProcessorCount = b"Thor", 20
        jetson.trt.__version__ = "10.13.3"
        monkeypatch.setattr("platform.machine", lambda: "aarch64")
        monkeypatch.setattr(plans, "jetson_linux", lambda: "38.2.0")
        how = artifact.execution.model_copy(update={"batch_sizes": (2, 1), "workspace_bytes": 5})
        after = plan_key(graph + b" ", artifact.model_copy(update={"execution": how}), open_cuda())
        told = {name for name in PlanKey.model_fields if getattr(before, name) != getattr(after, name)}
        assert told == set(PlanKey.model_fields) - {
            "flags", "hardware_level", "optimization_level", "input", "output"
        }  # fmt: skip


class TestPlan:
    @pytest.mark.parametrize("name", ["model.plan", "plan.json"])
    @pytest.mark.parametrize("content", [b"", b"junk", None])
    def test_a_file_of_junk_is_not_loaded_but_made_anew(
        self, content: bytes | None, name: str, made: Any, jetson: Any
    ) -> None:
        key, graph, artifact = made
        (key.folder / name).unlink()
        if content is not None:
            (key.folder / name).write_bytes(content)
        assert find_plan(key) is None
        make_plan(key, graph, artifact, lambda plan: None, Quiet())
        assert find_plan(key) is not None
        assert jetson.trt._knobs.builds.count("end") == 2

    @pytest.mark.parametrize("error", [SessionError("refused"), ParityError("wrong answer")])
    def test_one_that_is_whole_and_no_good_is_made_anew(
        self, error: Exception, made: Any, jetson: Any, lines: Any
    ) -> None:
        key, graph, artifact = made
        seen = []

        def prove(plan: bytes) -> None:
            seen.append(plan)
            if len(seen) == 1:
                raise error

        make_plan(key, graph, artifact, prove, lines)
        assert lines.said == [f"the plan that was kept is made anew: {error}"]
        assert (len(seen), jetson.trt._knobs.builds.count("end")) == (2, 2)

    def test_a_gpu_that_is_lost_while_a_plan_is_proved_does_not_make_it_anew(self, made: Any, jetson: Any) -> None:
        key, graph, artifact = made

        def lose(plan: bytes) -> None:
            raise DeviceLostError("gone")

        with pytest.raises(DeviceLostError, match="gone"):
            make_plan(key, graph, artifact, lose, Quiet())
        assert find_plan(key) is not None
        assert jetson.trt._knobs.builds.count("end") == 1

    def test_a_plan_that_answers_wrongly_is_not_kept(self, made: Any) -> None:
        key, graph, artifact = made
        other = changed(key, "jetson_linux")

        def refuse(plan: bytes) -> None:
            raise ValueError("wrong answer")

        with pytest.raises(ValueError, match="wrong answer"):
            make_plan(other, graph, artifact, refuse, Quiet())
        assert find_plan(other) is None

    def test_a_full_disk_leaves_the_plan_that_was_there(self, made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        key, graph, artifact = made
        before = find_plan(key)

        def full(path: Path, content: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(plans, "write_file", full)
        with pytest.raises(MissingError, match=r"no space left on this disk\. What was finished is kept"):
            make_plan(key, graph, artifact, lambda plan: None, Quiet(), force=True)
        assert find_plan(key) == before
        assert [path.name for path in key.folder.parent.iterdir() if "partial" in path.name] == []

    def test_a_cache_that_cannot_be_written_is_named(self, made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        _, graph, artifact = made
        monkeypatch.setenv("EDGETL_CACHE", "/proc/nowhere")
        key = plan_key(graph, artifact, open_cuda())
        with pytest.raises(MissingError, match=r"/proc/nowhere/plans: plans cannot be kept there: No such file"):
            make_plan(key, graph, artifact, lambda plan: None, Quiet())

    def test_what_was_learnt_is_used_for_the_next_plan(self, made: Any, jetson: Any) -> None:
        key, graph, artifact = made
        (timing,) = jetson.plans.glob("timing-*.cache")
        before = timing.read_bytes()
        make_plan(key, graph, artifact, lambda plan: None, Quiet(), force=True)
        assert timing.read_bytes().startswith(before)
        assert len(timing.read_bytes()) > len(before)


def compile_in_a_child(bundle: Path, **environment: str) -> subprocess.Popen[str]:
    # What a shell runs in the background is deaf to an interrupt, and so would its children be.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "edgetl", "compile", str(bundle)],
            env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, before)


def wait_for(path: Path, text: str) -> None:
    """Return when a file holds a text; a test that waits for half a minute has failed."""
    deadline = time.monotonic() + 30
    while not (path.is_file() and text in path.read_text()):
        assert time.monotonic() < deadline, f"{path} never said {text!r}"
        time.sleep(0.02)


class TestProcesses:
    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
    def test_a_build_that_is_ended_in_the_middle_leaves_no_plan_and_no_lock(
        self, number: int, jetson: Any, tmp_path: Path
    ) -> None:
        log = tmp_path / "builds"
        child = compile_in_a_child(jetson.bundle, FAKE_TRT_BUILD_SECONDS="20", FAKE_TRT_BUILD_LOG=str(log))
        wait_for(log, "begin")
        started = time.monotonic()
        child.send_signal(number)
        _, said = child.communicate(timeout=30)
        assert child.returncode == (130 if number == signal.SIGINT else -number), said
        assert time.monotonic() - started < 10
        assert not list(jetson.plans.glob("*/model.plan"))
        again = compile_in_a_child(jetson.bundle)
        _, said = again.communicate(timeout=60)
        assert again.returncode == 0, said
        assert len(list(jetson.plans.glob("*/model.plan"))) == 1

    def test_of_two_processes_one_builds_and_one_waits(self, jetson: Any, tmp_path: Path) -> None:
        log = tmp_path / "builds"
        told = {"FAKE_TRT_BUILD_SECONDS": "2", "FAKE_TRT_BUILD_LOG": str(log)}
        children = [compile_in_a_child(jetson.bundle, **told) for _ in range(2)]
        said = [child.communicate(timeout=60) for child in children]
        assert [child.returncode for child in children] == [0, 0], said
        assert [line.split()[0] for line in log.read_text().splitlines()] == ["begin", "end"]
        assert sum("another process is building this plan" in error for _, error in said) == 1
