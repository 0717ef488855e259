"""Tests of edgetl/runtime/session.py, and of every engine behind it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgetl.bundle import Artifact, Bundle
from edgetl.compile import COMPILERS, compile_graph
from edgetl.errors import BundleError, MissingError, SessionError
from edgetl.records import FloatArray, ImageArray, ModelContent, TensorSpec
from edgetl.runtime.session import ENGINES, Session, check_images, open_artifact, open_session

SPEC = TensorSpec(name="image", dtype="uint8", shape=(-1, 33, 33, 3))


def draw(count: int, seed: int = 0) -> ImageArray:
    return np.random.default_rng(seed).integers(0, 256, (count, 33, 33, 3), dtype=np.uint8)


def answer(core: Any, images: ImageArray) -> FloatArray:
    """Return the tiny network's logits, computed in numpy in double precision."""
    from onnx import numpy_helper

    weights = {tensor.name: numpy_helper.to_array(tensor).astype(np.float64) for tensor in core.graph.initializer}
    planes = images.transpose(0, 3, 1, 2) / 255
    windows = np.lib.stride_tricks.sliding_window_view(planes, (3, 3), axis=(2, 3))[:, :, ::2, ::2]
    edges = np.einsum("nchwij,ocij->nohw", windows, weights["kernel"]) + weights["kernel_bias"].reshape(1, -1, 1, 1)
    return np.maximum(edges, 0).mean(axis=(2, 3)) @ weights["head"] + weights["head_bias"]


def test_what_can_be_compiled_for_can_be_run() -> None:
    assert set(ENGINES) == set(COMPILERS)


@pytest.mark.parametrize("engine", ENGINES)
class TestEveryEngine:
    @pytest.fixture
    def model(self, engine: str, tiny_core: Any) -> tuple[ModelContent, Artifact]:
        try:
            compiled = compile_graph(tiny_core.SerializeToString(), engine)
        except MissingError as error:
            pytest.skip(str(error))
        artifact = Artifact(
            path=f"model{compiled.suffix}",
            engine=engine,
            precision="fp32",
            threads=1,
            input=compiled.input,
            output=compiled.output,
        )
        return compiled.content, artifact

    @pytest.fixture
    def session(self, model: tuple[ModelContent, Artifact]) -> Iterator[Session]:
        opened = open_artifact(*model, threads=1)
        yield opened
        opened.close()

    def test_it_reads_bytes_in_rows_and_gives_logits(self, session: Session) -> None:
        assert (session.input, session.output.shape) == (SPEC, (-1, 3))
        logits = session.run(draw(2))
        assert (logits.shape, logits.dtype) == ((2, 3), np.float32)

    @pytest.mark.parametrize("count", [1, 2, 5])
    def test_it_answers_as_the_network_for_any_number_of_images(
        self, count: int, session: Session, tiny_core: Any
    ) -> None:
        images = draw(count)
        np.testing.assert_allclose(session.run(images), answer(tiny_core, images), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("level", [0, 255])
    def test_black_and_white_are_the_ends_of_the_scale(self, level: int, session: Session, tiny_core: Any) -> None:
        images = np.full((1, 33, 33, 3), level, dtype=np.uint8)
        np.testing.assert_allclose(session.run(images), answer(tiny_core, images), rtol=1e-4, atol=1e-4)

    def test_an_image_is_answered_alike_alone_and_in_company(self, session: Session) -> None:
        images = draw(5)
        alone = np.concatenate([session.run(image[None]) for image in images])
        np.testing.assert_allclose(session.run(images), alone, rtol=1e-5, atol=1e-5)

    def test_a_view_of_an_array_is_read_as_it_looks(self, session: Session) -> None:
        mirrored = draw(2)[:, :, ::-1]
        np.testing.assert_array_equal(session.run(mirrored), session.run(mirrored.copy()))

    def test_the_images_are_not_changed(self, session: Session) -> None:
        images = draw(2)
        session.run(images)
        np.testing.assert_array_equal(images, draw(2))

    @pytest.mark.parametrize(
        "images",
        [
            draw(1).astype(np.float32),
            draw(1).astype(np.int8),
            draw(1)[0],
            draw(1)[:, 1:],
            draw(1)[..., :1],
            draw(1).transpose(0, 3, 1, 2),
            draw(0),
        ],
        ids=["floats", "signed", "no batch", "too low", "grey", "planes", "no image"],
    )
    def test_images_of_another_type_or_shape_are_refused(self, images: ImageArray, session: Session) -> None:
        message = (
            r"input 'image' must be uint8 of shape \(images, 33, 33, 3\), found \w+ \([\d, ]+\)\. `edgetl\.runtime"
        )
        with pytest.raises(SessionError, match=message):
            session.run(images)

    def test_a_closed_session_answers_no_more(self, model: tuple[ModelContent, Artifact]) -> None:
        session = open_artifact(*model, threads=1)
        session.close()
        session.close()
        with pytest.raises(SessionError, match=r"this session is closed\. Open another"):
            session.run(draw(1))

    def test_one_session_serves_many_threads(self, session: Session) -> None:
        batches = [draw(2, seed) for seed in range(24)]
        expected = [session.run(images) for images in batches]
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(session.run, batches))
        np.testing.assert_array_equal(found, expected)

    def test_two_sessions_in_two_threads_do_not_meet(
        self, model: tuple[ModelContent, Artifact], session: Session
    ) -> None:
        images = draw(3)
        expected = session.run(images)

        def use(_: int) -> list[FloatArray]:
            own = open_artifact(*model, threads=1)
            answers = [own.run(images) for _ in range(10)]
            own.close()
            return answers

        with ThreadPoolExecutor(2) as pool:
            for answers in pool.map(use, range(2)):
                np.testing.assert_array_equal(answers, [expected] * 10)

    @pytest.mark.parametrize("content", [b"", b"junk", b"\x00" * 1000])
    def test_a_junk_model_is_refused(self, content: bytes, model: tuple[ModelContent, Artifact]) -> None:
        with pytest.raises(SessionError, match=r"model\.\w+: .* refuses it: "):
            open_artifact(ModelContent(graph=content), model[1], threads=1)

    def test_half_a_model_is_refused(self, model: tuple[ModelContent, Artifact]) -> None:
        content, artifact = model
        with pytest.raises(SessionError, match=r"model\.\w+: "):
            open_artifact(replace(content, graph=content.graph[: len(content.graph) // 2]), artifact, threads=1)

    @pytest.mark.parametrize(
        ("side", "changed"),
        [
            ("input", {"name": "photo"}),
            ("output", {"name": "scores"}),
            ("input", {"dtype": "float32"}),
            ("input", {"shape": (-1, 32, 32, 3)}),
            ("input", {"shape": (1, 33, 33, 3)}),
        ],
    )
    def test_a_model_of_another_border_than_the_manifests_is_refused(
        self, side: str, changed: dict[str, Any], model: tuple[ModelContent, Artifact]
    ) -> None:
        content, artifact = model
        other = artifact.model_copy(update={side: getattr(artifact, side).model_copy(update=changed)})
        message = r"model\.\w+: has inputs .*image.* and outputs .*logits.*, the manifest says "
        with pytest.raises(SessionError, match=message):
            open_artifact(content, other, threads=1)


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
            open_artifact(ModelContent(graph=b""), artifact, threads=1)

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
