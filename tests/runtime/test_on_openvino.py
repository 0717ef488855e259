"""Tests of edgetl/runtime/on_openvino.py: what the suite for every engine does not ask."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgetl.bundle import Artifact
from edgetl.compile import compile_graph
from edgetl.compile.openvino_core import the_core
from edgetl.errors import MissingError, SessionError
from edgetl.records import ModelContent
from edgetl.runtime import Session, on_openvino

pytest.importorskip("openvino", reason="the engine openvino is not installed here")

# Two sessions, closed in the order they were opened; then a signal whose handler runs on the thread's signal stack.
SCRIPT = """
import faulthandler, gc, pathlib, signal, subprocess, sys
from edgetl.bundle import Artifact
from edgetl.records import ModelContent, TensorSpec
from edgetl.runtime import open_artifact
faulthandler.enable()
signal.signal(signal.SIGCHLD, lambda number, frame: None)
folder = pathlib.Path(sys.argv[1])
content = ModelContent(graph=(folder / "m.xml").read_bytes(), weights=(folder / "m.bin").read_bytes())
artifact = Artifact(
    path="m.xml", weights="m.bin", engine="openvino", precision="fp32",
    input=TensorSpec(name="image", dtype="uint8", shape=(-1, 33, 33, 3)),
    output=TensorSpec(name="logits", dtype="float32", shape=(-1, 3)),
)
sessions = [open_artifact(content, artifact) for _ in range(3)]
while sessions:
    sessions.pop(0).close()
    gc.collect()
subprocess.run([sys.executable, "-c", ""], check=True)
print("alive")
"""


def test_a_process_outlives_its_sessions_when_a_child_ends(tiny_core: Any, tmp_path: Path) -> None:
    content = compile_graph(tiny_core.SerializeToString(), "openvino").content
    assert content.weights is not None
    (tmp_path / "m.xml").write_bytes(content.graph)
    (tmp_path / "m.bin").write_bytes(content.weights)
    ran = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "alive\n"), ran.stderr


def test_a_missing_engine_is_named_with_the_command_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    message = r"openvino is needed to run this bundle .* Run: pip install 'edgetl\[openvino\]'"
    with pytest.raises(MissingError, match=message):
        the_core("run this bundle")


class TestHowManyAtOnce:
    """One image is answered by a model of fixed shape, several by one of any number."""

    @pytest.fixture
    def compiled(self, monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
        """For how many images models are compiled, in order."""
        for_images: list[int | None] = []
        really = on_openvino.compile_model

        def compile_model(model: ModelContent, artifact: Artifact, images: int | None) -> Any:
            for_images.append(images)
            return really(model, artifact, images)

        monkeypatch.setattr(on_openvino, "compile_model", compile_model)
        return for_images

    @pytest.fixture
    def session(self, tiny_core: Any, compiled: list[int | None]) -> Session:
        made = compile_graph(tiny_core.SerializeToString(), "openvino")
        artifact = Artifact(
            path="m.xml", weights="m.bin", engine="openvino", precision="fp32", input=made.input, output=made.output
        )
        return on_openvino.open_session(made.content, artifact)

    def test_several_are_compiled_for_when_they_first_come(self, session: Session, compiled: list[int | None]) -> None:
        images = np.random.default_rng(0).integers(0, 256, (5, *session.artifact.input.shape[1:]), dtype=np.uint8)
        one_by_one = np.concatenate([session.run(images[row : row + 1]) for row in range(5)])
        assert compiled == [1]
        with ThreadPoolExecutor(4) as pool:
            every = list(pool.map(session.run, [images, images[:3], images, images[2:]]))
        assert compiled == [1, None]
        assert every[0] == pytest.approx(one_by_one, abs=1e-5)
        assert every[3] == pytest.approx(one_by_one[2:], abs=1e-5)

    def test_a_closed_session_compiles_nothing_more(self, session: Session, compiled: list[int | None]) -> None:
        images = np.zeros((2, *session.artifact.input.shape[1:]), dtype=np.uint8)
        session.close()
        with pytest.raises(SessionError, match="this session is closed"):
            session.run(images)
        assert compiled == [1]


@pytest.mark.parametrize(
    ("precision", "offered", "computed"),
    [("bf16", ["FP32", "BF16"], "bf16"), ("bf16", ["FP32"], "f32"), ("fp32", ["FP32", "BF16"], "f32"),
     ("int8", ["FP32", "BF16"], "f32")],
)  # fmt: skip
def test_bfloat16_is_asked_for_where_the_artifact_says_so_and_the_cpu_has_it(
    precision: Any, offered: list[str], computed: str, tiny_core: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    class Core:
        def __getattr__(self, name: str) -> Any:
            return getattr(core, name)

        def get_property(self, device: str, name: str) -> list[str]:
            assert (device, name) == ("CPU", "OPTIMIZATION_CAPABILITIES")
            return offered

        def compile_model(self, model: Any, device: str, options: dict[str, Any]) -> Any:
            asked.append(options)
            return core.compile_model(model, device, {**options, "INFERENCE_PRECISION_HINT": "f32"})

    core = the_core("test")
    monkeypatch.setattr(on_openvino, "the_core", lambda purpose: Core())
    made = compile_graph(tiny_core.SerializeToString(), "openvino")
    artifact = Artifact(
        path="m.xml", weights="m.bin", engine="openvino", precision=precision, input=made.input, output=made.output
    )
    session = on_openvino.open_session(made.content, artifact)
    assert [each["INFERENCE_PRECISION_HINT"] for each in asked] == [computed]
    stands_in = precision == "bf16" != computed
    assert session.degraded == ("this CPU has no bfloat16, so that float32 answers" if stands_in else None)


def test_threads_that_come_at_once_get_the_same_core() -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len({id(core) for core in pool.map(the_core, ["run this bundle"] * 32)}) == 1
