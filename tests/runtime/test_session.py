"""Tests of edgetl/runtime/session.py, and of every engine behind it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from edgetl.bundle import Bundle
from edgetl.compile import COMPILERS
from edgetl.errors import BundleError, MissingError, SessionError
from edgetl.records import ImageArray, ModelContent, TensorSpec
from edgetl.runtime.session import ENGINES, check_images, open_artifact, open_session

SPEC = TensorSpec(name="image", dtype="uint8", shape=(-1, 33, 33, 3))


def draw(count: int, seed: int = 0) -> ImageArray:
    return np.random.default_rng(seed).integers(0, 256, (count, 33, 33, 3), dtype=np.uint8)


def test_what_can_be_compiled_for_can_be_run() -> None:
    assert set(ENGINES) == set(COMPILERS)


class TestOpenSession:
    def test_it_runs_the_bundles_artifact(self, tiny_bundle: Path) -> None:
        session = open_session(Bundle.open(tiny_bundle))
        assert session.run(draw(1)).shape == (1, 3)

    @pytest.mark.parametrize("threads", [0, 1, 2])
    def test_the_number_of_threads_does_not_change_the_answer(self, threads: int, tiny_bundle: Path) -> None:
        bundle = Bundle.open(tiny_bundle)
        np.testing.assert_allclose(
            open_session(bundle, threads).run(draw(2)), open_session(bundle).run(draw(2)), rtol=1e-5, atol=1e-5
        )

    def test_a_damaged_artifact_never_reaches_the_engine(self, own_bundle: Path) -> None:
        with (own_bundle / "model.onnx").open("ab") as file:
            file.write(b"\x00")
        with pytest.raises(BundleError, match=r"model\.onnx: damaged or changed"):
            open_session(Bundle.open(own_bundle))

    def test_an_engine_that_is_not_known_is_named(self, tiny_bundle: Path) -> None:
        artifact = Bundle.open(tiny_bundle).manifest.artifact.model_copy(update={"engine": "abacus"})
        with pytest.raises(SessionError, match=r"engine 'abacus' is not known here\. Known: onnxruntime"):
            open_artifact(ModelContent(graph=b""), artifact)

    def test_a_missing_engine_is_named_with_the_command_that_brings_it(
        self, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        message = r"onnxruntime is needed to run this bundle and is not installed\. Run: pip install 'edgetl\[ort\]'"
        with pytest.raises(MissingError, match=message):
            open_session(Bundle.open(tiny_bundle))


class TestCheckImages:
    @pytest.mark.parametrize("count", [1, 2, 100])
    def test_a_free_dimension_takes_any_number(self, count: int) -> None:
        check_images(np.zeros((count, 33, 33, 3), np.uint8), SPEC)

    def test_a_fixed_dimension_takes_its_own(self) -> None:
        fixed = SPEC.model_copy(update={"shape": (1, 33, 33, 3)})
        with pytest.raises(SessionError, match=r"of shape \(1, 33, 33, 3\), found uint8 \(2, 33, 33, 3\)"):
            check_images(draw(2), fixed)


def test_what_cannot_stand_in_is_not_promised(own_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = own_bundle / "manifest.json"
    said = json.loads(manifest.read_text())
    said["artifacts"][0]["execution"]["device"] = "cuda"
    manifest.write_text(json.dumps(said))
    bundle = Bundle.open(own_bundle)
    monkeypatch.setattr("edgetl.runtime.session.devices_of", lambda engine: ("cpu",))
    with pytest.raises(MissingError, match=r"\(or let onnxruntime on cpu in fp32 answer: --fallback"):
        open_session(bundle)
    monkeypatch.setattr("edgetl.runtime.session.devices_of", lambda engine: ())
    with pytest.raises(MissingError) as caught:
        open_session(bundle)
    assert "fallback" not in str(caught.value)
    with pytest.raises(MissingError, match="--fallback cannot help: the bundle holds for that only what onnxruntime"):
        open_session(bundle, fallback=True)


def test_where_a_bundle_holds_nothing_else_a_fall_back_is_said_to_be_of_no_help(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingError, match=r"\(--fallback cannot help: the bundle holds nothing else\)"):
        open_session(Bundle.open(tiny_bundle), fallback=True)
