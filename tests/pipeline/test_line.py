"""Tests of edgetl/pipeline/line.py, and of the steps and files of a whole build."""

from __future__ import annotations

import errno
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import edgetl
from edgetl.bundle import Artifact, Bundle
from edgetl.errors import MissingError, ParityError
from edgetl.pipeline import BuildReport, BuildSettings, Plan, Summary, build, steps
from edgetl.pipeline.artifacts import open_here
from edgetl.pipeline.measure import answer
from edgetl.records import Latency, Precision, Progress
from edgetl.runtime import Predictor, Session, verify_bundle

STAGES = [
    "check", "view", "decoded", "frozen", "tuned", "exported", "reference", "calibrated", "quantized", "compiled",
    "answered", "judged",
]  # fmt: skip
Step = Callable[[Plan, Progress, Path], None]
Fingerprint = Callable[[Path], dict[str, str]]


class Stop(Exception):  # noqa: N818
    """Raised by the tests in the middle of a build."""


def report_of(bundle: Bundle) -> BuildReport:
    return BuildReport.model_validate_json(bundle.read("report.json"))


@pytest.fixture
def same_clock(built: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let latencies come out as in the shared build: which precision ships hangs on them."""
    judged = report_of(built).judged

    def replay(calls: dict[str, Any], rounds: int, per_round: int) -> dict[str, Latency]:
        return {each.precision: each.latency for each in judged.measured}

    monkeypatch.setattr("edgetl.pipeline.measure.interleave", replay)


class TestBundle:
    def test_the_manifest_says_what_was_built(self, built: Bundle) -> None:
        manifest = built.manifest
        assert manifest.labels == ("blue", "green", "red")
        assert (manifest.task, manifest.target, manifest.backbone) == (
            "classification", "cpu", "torchvision/squeezenet1_1"
        )  # fmt: skip
        assert manifest.weights.source == "random"
        assert manifest.preprocess.side == 32
        assert manifest.toolchain["edgetl"] == edgetl.__version__

    def test_accuracies_are_shares_on_photos_that_nothing_was_chosen_by(self, built: Bundle) -> None:
        accuracy = built.manifest.accuracy
        assert (accuracy.split, accuracy.images) == ("val", 6)
        assert all(0.0 <= share <= 1.0 for share in (accuracy.frozen, accuracy.float_, accuracy.shipped))
        assert accuracy.frozen > 0.9

    def test_every_file_is_listed_with_its_hash(self, built: Bundle) -> None:
        assert built.check_files() == len(built.manifest.files)
        assert set(built.manifest.files) == {
            "model.onnx", "labels.txt", "report.json", "README.md", "golden/000.png", "golden/001.png",
            "golden/002.png", "golden/inputs.npy", "golden/model.npy",
        }  # fmt: skip
        assert built.read("labels.txt") == b"blue\ngreen\nred\n"

    def test_golden_images_are_the_users_photos(self, built: Bundle, colours: Path) -> None:
        photos = {path.read_bytes() for path in colours.rglob("*.png")}
        assert built.manifest.golden is not None
        assert len(built.manifest.golden.images) == 3
        assert {built.read(name) for name in built.manifest.golden.images} <= photos

    def test_it_verifies(self, built: Bundle) -> None:
        (one,) = verify_bundle(built.folder).replayed
        golden = one.golden
        assert (golden.images, golden.max_pixel_difference, golden.top1_agreement) == (3, 0, 1.0)

    def test_it_answers_for_photos(self, built: Bundle, colours: Path) -> None:
        with Predictor.open(built.folder) as predictor:
            answers = [predictor.predict(path).label for path in sorted((colours / "red").iterdir())]
        assert answers.count("red") >= 10

    def test_the_model_card_says_figures_licence_and_how_to_use_it(self, built: Bundle) -> None:
        card = " ".join(built.read("README.md").decode().split())
        assert "Tells 3 classes apart: blue, green, red." in card
        assert "none: not pretrained" in card
        assert "on 6 val photos" in card
        assert "cross-validation on the 27 training photos" in card
        assert "precision on 3 more that were held out of training" in card
        assert 'Predictor.open("colours")' in card


class TestReport:
    def test_it_says_how_many_photos_choices_and_figures_are_from(self, built: Bundle) -> None:
        report = report_of(built)
        assert (report.train_images, report.held_out_images, report.accuracy.images) == (27, 3, 6)

    def test_both_precisions_are_measured_and_the_verdict_has_a_reason(self, built: Bundle) -> None:
        judged = report_of(built).judged
        assert [each.precision for each in judged.measured] == ["fp32", "int8"]
        assert judged.verdict.precision == built.manifest.artifact.precision
        assert "INT8" in judged.verdict.reason
        for each in judged.measured:
            assert 0 <= each.held_out_accuracy <= 1
            assert each.latency.count == len(each.latency.samples_ms) >= 100

    @pytest.mark.parametrize("precision", ["int8", "fp32"])
    def test_a_precision_that_was_asked_for_ships_and_what_it_costs_is_said(
        self, precision: Precision, built: Bundle, settings: BuildSettings
    ) -> None:
        bundle = build(settings.model_copy(update={"precision": precision}))
        report = report_of(bundle)
        assert bundle.manifest.artifact.precision == report.judged.verdict.precision == precision
        assert f"--precision {precision}" in report.command
        damage = report.judged.damage
        assert damage.drop.images == sum(each.images for each in damage.by_class) == 6
        assert (damage.drop.lost, damage.drop.gained) == (0, 0) or len(damage.flips) >= 1
        card = bundle.read("README.md").decode()
        assert ("## What it costs" in card) == (precision == "int8")
        assert all(f"| {label} | 2 |" in card for label in ("blue", "green", "red")) == (precision == "int8")

    def test_it_names_the_photos_that_calibrated_and_what_is_amiss_with_them(
        self, built: Bundle, colours: Path
    ) -> None:
        made = report_of(built).calibration
        assert made is not None
        assert len(made.photos) == 27
        for path, sha256 in made.photos.items():
            assert hashlib.sha256((colours / path).read_bytes()).hexdigest() == sha256
        lines = "".join(f"{each}\n" for each in made.photos.values())
        assert made.sha256 == hashlib.sha256(lines.encode()).hexdigest()
        assert made.remarks == (
            "recipe minmax asks for 200 photos; all 27 are used",
            "27 photos calibrate: with fewer than 100, ranges may miss what is rare",
        )
        assert "recipe `minmax` on 27 training photos" in built.read("README.md").decode()

    def test_with_a_strict_budget_three_photos_prove_nothing(self, built: Bundle, settings: BuildSettings) -> None:
        judged = report_of(build(settings.model_copy(update={"strict_budget": True}))).judged
        assert judged.ships == ("fp32",)
        assert judged.of("int8").held_out_drop.interval[1] == pytest.approx(100.0)
        assert judged.verdict.reason.startswith("INT8 is outside the budget of 0.5 points")

    def test_the_evaluation_split_measures_float_and_what_ships_and_nothing_else(
        self, built: Bundle, settings: BuildSettings, write_target: Callable[..., str]
    ) -> None:
        other = build(settings.model_copy(update={"target": write_target(precisions=("fp32", "int8"))}))
        for bundle, measured in ((built, {"fp32", built.manifest.artifact.precision}), (other, {"fp32"})):
            judged = report_of(bundle).judged
            assert judged.ships == (bundle.manifest.artifact.precision,)
            assert {each.precision for each in judged.measured if each.unseen} == measured
            for unseen in filter(None, (each.unseen for each in judged.measured)):
                low, high = unseen.accuracy_interval
                assert low <= unseen.accuracy <= high
                assert sum(map(sum, unseen.confusion)) == 6

    def test_a_float_artifact_that_does_not_run_as_the_reference_answers_for_itself(
        self, built: Bundle, settings: BuildSettings, write_target: Callable[..., str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = []

        def open_spied(folder: Path, artifact: Artifact) -> Session:
            asked.append((artifact.precision, artifact.execution.device))
            return open_here(folder, artifact)

        monkeypatch.setattr("edgetl.pipeline.measure.open_here", open_spied)
        build(settings.model_copy(update={"target": write_target(precisions=("fp32",), device="cuda")}))
        assert asked == [("fp32", "cuda")]

    @pytest.mark.parametrize(
        ("stage", "module", "device"), [("reference", "measure", "cpu"), ("compiled", "steps", "cuda")]
    )
    def test_a_float_artifact_that_computes_something_else_stops_the_build(
        self, stage: str, module: str, device: str, settings: BuildSettings, write_target: Callable[..., str],
        own_stages: Path, monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        for left in own_stages.glob(f"{stage}-*"):
            shutil.rmtree(left)
        monkeypatch.setattr(
            f"edgetl.pipeline.{module}.answer",
            lambda *given: {name: -logits for name, logits in answer(*given).items()},
        )
        target = write_target(precisions=("fp32",), device=device)
        with pytest.raises(
            ParityError, match="fp32 on onnxruntime, cpu computes something else than the trained network"
        ):
            build(settings.model_copy(update={"target": target}))
        assert not settings.out.exists()

    def test_the_float_artifact_computes_what_was_trained(self, built: Bundle) -> None:
        core, faced, *rest = report_of(built).judged.of("fp32").rungs
        assert (core.name, faced.name, rest) == ("core", "faced", [])
        for rung in (core, faced):
            assert rung.parity.max_relative_error <= 1e-3
            assert rung.parity.top1_agreement == 1.0

    def test_it_names_the_command_that_makes_the_bundle_again(self, built: Bundle, colours: Path) -> None:
        command = report_of(built).command
        assert command.startswith(f"edgetl build --data {colours} --backbone torchvision/squeezenet1_1 --out ")
        assert "--weights random" in command and "--epochs 1" in command and "--golden 3" in command

    def test_its_summary_has_the_keys_that_the_issue_names(self, built: Bundle) -> None:
        summary = Summary.of("here", "onnxruntime", report_of(built)).model_dump()
        assert list(summary) == [
            "bundle", "target", "engine", "precision", "reason", "classes", "split", "images", "accuracy", "drop",
            "latency_ms", "size_bytes", "seconds",
        ]  # fmt: skip
        assert list(summary["seconds"]) == ["frozen", "tune", "total"]
        assert summary["size_bytes"]["float"] > 1_000_000


class TestSecondBuild:
    @pytest.mark.usefixtures("no_work")
    def test_the_same_again_does_no_stage(self, built: Bundle, small_build: dict[str, Any], lines: Any) -> None:
        written = (built.folder / "manifest.json").stat().st_mtime_ns
        again = build(BuildSettings(**small_build, out=built.folder), lines)
        assert again == built
        assert lines.said == [f"{built.folder} is up to date"]
        assert (built.folder / "manifest.json").stat().st_mtime_ns == written

    @pytest.mark.usefixtures("no_work", "built")
    def test_another_out_is_written_from_the_stages_that_are_done(
        self, built: Bundle, settings: BuildSettings, lines: Any, fingerprint: Fingerprint
    ) -> None:
        bundle = build(settings, lines)
        assert [line for line in lines.said if "already done" in line] == [f"{name}: already done" for name in STAGES]
        assert lines.said[1] == (
            "few photos to train on: blue 10, green 10, red 10. Twenty a class are a good start, a hundred are better"
        )
        assert fingerprint(bundle.folder) == fingerprint(built.folder)

    @pytest.mark.usefixtures("no_work")
    def test_a_damaged_bundle_is_written_again(
        self, built: Bundle, settings: BuildSettings, fingerprint: Fingerprint
    ) -> None:
        shutil.copytree(built.folder, settings.out)
        (settings.out / "labels.txt").write_text("blue\ngreen\nyellow\n")
        assert fingerprint(build(settings).folder) == fingerprint(built.folder)

    @pytest.mark.usefixtures("no_work")
    def test_another_number_of_golden_photos_writes_the_bundle_and_nothing_else(
        self, built: Bundle, small_build: dict[str, Any], tmp_path: Path
    ) -> None:
        shutil.copytree(built.folder, tmp_path / "out")
        bundle = build(BuildSettings(**{**small_build, "golden": 0}, out=tmp_path / "out"))
        assert bundle.manifest.golden is None
        assert not (bundle.folder / "golden").exists()
        assert verify_bundle(bundle.folder).replayed == ()

    def test_force_makes_every_stage_anew(
        self, own_stages: Path, settings: BuildSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = []
        saved = shutil.copytree(own_stages, tmp_path / "saved")

        def copier(name: str) -> Step:
            def copy(plan: Plan, progress: Progress, folder: Path) -> None:
                made.append(name)
                shutil.copytree(saved / getattr(plan, name).folder.name, folder, dirs_exist_ok=True)

            return copy

        for name in STAGES:
            monkeypatch.setitem(steps.STEPS, name, copier(name))
        build(settings)
        assert made == []
        build(settings, force=True)
        assert made == STAGES


class TestInterruptedBuild:
    @pytest.mark.usefixtures("no_stages", "same_clock")
    def test_one_that_is_stopped_in_every_stage_comes_to_the_same_in_the_end(
        self,
        built: Bundle,
        settings: BuildSettings,
        lines: Any,
        fingerprint: Fingerprint,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        works = dict(steps.STEPS)

        def stopping_after_work(plan: Plan, progress: Progress, folder: Path) -> None:
            name = folder.name.removeprefix(".").partition("-")[0]
            works[name](plan, progress, folder)
            monkeypatch.setitem(steps.STEPS, name, works[name])
            raise KeyboardInterrupt

        for name in STAGES:
            monkeypatch.setitem(steps.STEPS, name, stopping_after_work)
        for _ in STAGES:
            with pytest.raises(KeyboardInterrupt):
                build(settings, lines)
            assert not settings.out.exists()
        lines.said.clear()
        bundle = build(settings, lines)
        assert [line for line in lines.said if line.endswith("already done")] == [
            f"{name}: already done" for name in STAGES[:-1]
        ]
        assert fingerprint(bundle.folder) == fingerprint(built.folder)

    def test_nothing_is_left_beside_out(
        self, built: Bundle, settings: BuildSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*given: Any) -> None:
            raise Stop

        monkeypatch.setattr("edgetl.pipeline.compose.write_golden", fail)
        with pytest.raises(Stop):
            build(settings)
        assert list(tmp_path.iterdir()) == []


class TestFullDisk:
    @pytest.fixture
    def full(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(path: Path, content: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

        monkeypatch.setattr(Path, "write_bytes", refuse)

    @pytest.mark.usefixtures("built", "full")
    def test_no_room_for_the_bundle_is_an_error_and_leaves_nothing(
        self, settings: BuildSettings, tmp_path: Path
    ) -> None:
        with pytest.raises(MissingError, match=r"out: no space left on this disk\. What was finished is kept"):
            build(settings)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.usefixtures("full")
    def test_no_room_for_a_stage_is_an_error_and_leaves_nothing(self, no_stages: Path, settings: BuildSettings) -> None:
        with pytest.raises(MissingError, match=r"check-\w+: no space left on this disk"):
            build(settings)
        assert list(no_stages.iterdir()) == []

    def test_an_older_bundle_at_out_stays_whole(
        self, built: Bundle, settings: BuildSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shutil.copytree(built.folder, settings.out)

        def refuse(path: Path, content: bytes) -> int:
            raise OSError(errno.EDQUOT, "Disk quota exceeded", str(path))

        monkeypatch.setattr(Path, "write_bytes", refuse)
        with pytest.raises(MissingError, match="no space left on this disk"):
            build(settings.model_copy(update={"golden": 1}))
        assert Bundle.open(settings.out).check_files() == built.check_files()
