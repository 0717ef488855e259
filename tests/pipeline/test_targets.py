"""Tests of a build for several targets at once, and of one for a device that is not here."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgetl.bundle import Artifact, Bundle
from edgetl.errors import SettingsError
from edgetl.pipeline import BuildReport, BuildSettings, build, build_each, read_builds
from edgetl.pipeline.artifacts import write_artifact
from edgetl.pipeline.measure import answer
from edgetl.records import FloatArray, Precision
from edgetl.runtime import Predictor, Session, verify_bundle

pytest.importorskip("modelopt", reason="ModelOpt types the graphs of a bundle for TensorRT")

SHARED = ["check", "view", "decoded", "frozen", "tuned", "exported", "reference", "calibrated"]
LADDER = ("int8+fp16", "int8", "fp16")


@pytest.fixture(scope="module")
def fleet(
    built: Bundle, small_build: dict[str, Any], cache_base: Path, tmp_path_factory: pytest.TempPathFactory,
    keep_lines: Any,
) -> tuple[dict[str, Bundle], list[str]]:  # fmt: skip
    """Return the small build's bundles for three targets, made at once, and what was said."""
    out, lines = tmp_path_factory.mktemp("fleet") / "out", keep_lines()
    names = ["jetson", "raspberry-pi-5", "cpu"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGETL_CACHE", str(cache_base))
        builds = [BuildSettings(**small_build, target=name, out=out / name) for name in names]
        return dict(zip(names, build_each(builds, lines), strict=True)), lines.said


def forget(stages: Path, name: str) -> None:
    """Remove what every stage of this name left."""
    for folder in stages.glob(f"{name}-*"):
        shutil.rmtree(folder)


def report_of(bundle: Bundle) -> BuildReport:
    return BuildReport.model_validate_json(bundle.read("report.json"))


def test_each_target_has_a_bundle_that_verifies(fleet: tuple[dict[str, Bundle], list[str]]) -> None:
    bundles, _ = fleet
    assert {name: bundle.manifest.target for name, bundle in bundles.items()} == {
        "jetson": "jetson-orin-nano", "raspberry-pi-5": "raspberry-pi-5", "cpu": "cpu",
    }  # fmt: skip
    for bundle in bundles.values():
        assert verify_bundle(bundle.folder).replayed


def test_every_stage_that_can_be_is_shared(fleet: tuple[dict[str, Bundle], list[str]]) -> None:
    _, said = fleet
    starts = [index for index, line in enumerate(said) if line.startswith("target ")]
    done = [
        [line.partition(":")[0] for line in said[start:end] if line.endswith("already done")]
        for start, end in zip(starts, [*starts[1:], len(said)], strict=True)
    ]
    assert done == [
        SHARED,  # TensorRT's graphs are quantized and compiled in a way of their own
        [*SHARED, "quantized", "compiled", "answered"],
        [*SHARED, "quantized", "compiled", "answered", "judged"],
    ]


def test_a_device_that_is_not_here_has_no_latency(fleet: tuple[dict[str, Bundle], list[str]]) -> None:
    bundles, _ = fleet
    for name in ("jetson", "raspberry-pi-5"):
        judged = report_of(bundles[name]).judged
        assert [each.latency for each in judged.measured] == [None] * len(judged.measured)
        assert judged.verdict.speed_up is None
        assert "Latency was not measured where it was built" in bundles[name].read("README.md").decode()
    assert all(each.latency for each in report_of(bundles["cpu"]).judged.measured)


def test_how_a_target_runs_goes_with_its_bundle(fleet: tuple[dict[str, Bundle], list[str]]) -> None:
    bundles, _ = fleet
    assert bundles["raspberry-pi-5"].manifest.artifact.execution.threads == 4
    assert bundles["cpu"].manifest.artifact.execution.threads == 0
    jetson = bundles["jetson"].manifest.artifact.execution
    assert (jetson.device, jetson.batch_sizes, jetson.workspace_bytes) == ("cuda", (1, 4), 2**30)


class TestJetson:
    @pytest.fixture
    def bundle(self, fleet: tuple[dict[str, Bundle], list[str]]) -> Bundle:
        return fleet[0]["jetson"]

    def test_it_holds_the_ladder_and_what_answers_until_there_is_a_plan(self, bundle: Bundle) -> None:
        *typed, fallback = bundle.manifest.artifacts
        precisions = tuple(each.precision for each in typed)
        assert precisions == LADDER[LADDER.index(precisions[0]) :]
        assert {each.engine for each in typed} == {"tensorrt"}
        assert (fallback.path, fallback.engine, fallback.precision) == ("fallback.onnx", "onnxruntime", "fp32")
        assert bundle.manifest.golden is not None
        assert set(bundle.manifest.golden.expected) == {each.path for each in bundle.manifest.artifacts}

    def test_the_page_for_the_device_has_the_exact_commands(self, bundle: Bundle) -> None:
        page = bundle.read("on_device.md").decode()
        side = bundle.manifest.artifact.input.shape[1]
        for words in (
            "edgetl compile jetson", "edgetl verify jetson", "tensorrt 10.3 or newer", "--onnx=model.onnx",
            f"--minShapes=image:1x{side}x{side}x3", f"--maxShapes=image:4x{side}x{side}x3", "--stronglyTyped",
            "--memPoolSize=workspace:1024",
        ):  # fmt: skip
            assert words in page
        assert not any(flag in page for flag in ("--fp16", "--int8 ", "--best"))

    def test_the_fall_back_answers_as_the_bundle_for_onnx_runtime(
        self, bundle: Bundle, built: Bundle, colours: Path
    ) -> None:
        photos = sorted(colours.rglob("*.png"))
        with Predictor.open(bundle.folder, fallback=True) as one, Predictor.open(built.folder) as reference:
            same = [
                a.label == b.label
                for a, b in zip(one.predict_batch(photos), reference.predict_batch(photos), strict=True)
            ]
        assert np.mean(same) >= 0.95

    def test_answers_were_computed_by_what_was_here_and_the_report_says_so(self, bundle: Bundle) -> None:
        judged = report_of(bundle).judged
        stood_in = "onnxruntime on cpu, in float32"
        assert {each.precision: each.answered_by for each in judged.measured} == {
            "fp32": "onnxruntime on cpu", **{each: stood_in for each in LADDER if each not in judged.not_tried},
        }  # fmt: skip
        for each in judged.measured:
            assert (each.unseen.answered_by if each.unseen else None) == (
                each.answered_by if each.precision in judged.ships else None
            )

    def test_what_every_target_needs_is_not_decoded_compiled_or_proved_again(
        self, bundle: Bundle, settings: BuildSettings, own_stages: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for stage in ("compiled", "answered", "judged"):
            forget(own_stages, stage)
        written = []

        def write_spied(folder: Path, core: bytes, precision: Precision, *rest: Any) -> Artifact:
            written.append(precision)
            return write_artifact(folder, core, precision, *rest)

        def refuse(path: Path, *rest: Any) -> None:
            raise AssertionError(f"{path} is opened again")

        monkeypatch.setattr("edgetl.pipeline.steps.write_artifact", write_spied)
        monkeypatch.setattr("edgetl.pipeline.steps.open_here", refuse)
        monkeypatch.setattr("edgetl.data.loader.open_photo", refuse)
        again = build(settings.model_copy(update={"target": "jetson"}))
        assert written == ["int8+fp16", "int8", "fp16"]
        assert again.read("fallback.onnx") == bundle.read("fallback.onnx")
        assert report_of(again).judged.of("fp32").rungs == report_of(bundle).judged.of("fp32").rungs

    @pytest.mark.parametrize(
        ("allowed", "wrong", "ships", "not_tried"),
        [
            (LADDER, (), (*LADDER, "fp32"), {}),
            (LADDER, ("int8",), ("int8+fp16", "fp16", "fp32"), {}),
            (LADDER, ("int8+fp16",), ("fp16", "fp32"), {"int8": "int8+fp16"}),
            (LADDER, ("int8+fp16", "fp16"), ("int8", "fp32"), {}),
            (("int8+fp16", "int8"), ("int8+fp16",), ("int8", "fp32"), {}),
            (("int8", "int8+fp16"), ("int8+fp16",), ("int8", "fp32"), {}),
            (("fp16", "int8+fp16", "int8"), (), ("fp16", "int8+fp16", "fp32"), {"int8": "int8+fp16"}),
        ],
    )
    def test_what_quantizes_alike_is_tried_only_where_it_can_matter(
        self, allowed: tuple[str, ...], wrong: tuple[Precision, ...], ships: tuple[str, ...],
        not_tried: dict[str, str], bundle: Bundle, settings: BuildSettings, write_target: Callable[..., str],
        own_stages: Path, monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        forget(own_stages, "answered")

        def spoil(sessions: Mapping[Precision, Session], *rest: Any) -> dict[Precision, FloatArray]:
            return {name: -logits if name in wrong else logits for name, logits in answer(sessions, *rest).items()}

        monkeypatch.setattr("edgetl.pipeline.measure.answer", spoil)
        target = write_target(precisions=allowed, engine="tensorrt", accuracy_drop_points=30)
        built = build(settings.model_copy(update={"target": target, "recipe": "minmax"}))
        judged = report_of(built).judged
        assert (judged.ships, judged.not_tried) == (ships, not_tried)
        assert [each.precision for each in judged.measured] == [
            each for each in ("fp32", *allowed) if each not in not_tried
        ]
        assert ("Not tried: int8, which quantizes as int8+fp16 does" in built.read("README.md").decode()) == bool(
            not_tried
        )


def test_one_device_under_two_names_is_an_error(small_build: dict[str, Any], tmp_path: Path) -> None:
    builds = [BuildSettings(**small_build, target=name, out=tmp_path / name) for name in ("jetson", "jetson-orin-nano")]
    with pytest.raises(SettingsError, match="--target jetson and jetson-orin-nano are both jetson-orin-nano"):
        next(build_each(builds))


FLAGS = {"data": "photos", "out": Path("out")}


class TestReadBuilds:
    def test_several_targets_lie_in_out_under_their_names(self) -> None:
        builds = read_builds(None, {**FLAGS, "target": ["jetson", "./my-box.toml"]})
        assert [(each.target, each.out) for each in builds] == [
            ("jetson", Path("out/jetson")), ("./my-box.toml", Path("out/my-box")),
        ]  # fmt: skip

    @pytest.mark.parametrize("target", [["cpu"], "cpu", None])
    def test_one_target_is_out_itself(self, target: Any) -> None:
        (one,) = read_builds(None, {**FLAGS, "target": target})
        assert (one.target, one.out) == ("cpu", Path("out"))

    def test_a_file_may_list_them(self, tmp_path: Path) -> None:
        (tmp_path / "build.toml").write_text('data = "photos"\nout = "out"\ntarget = ["cpu", "jetson"]\n')
        assert [each.target for each in read_builds(tmp_path / "build.toml", {})] == ["cpu", "jetson"]

    @pytest.mark.parametrize("targets", [["cpu", "cpu"], ["a/box.toml", "b/box.toml"], []])
    def test_a_target_named_twice_is_an_error(self, targets: list[str]) -> None:
        with pytest.raises(SettingsError, match="--target must name each target once"):
            read_builds(None, {**FLAGS, "target": targets})
