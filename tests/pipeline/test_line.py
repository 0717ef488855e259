"""Tests of edgetl/pipeline/line.py, and of the steps and files of a whole build."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import edgetl
from edgetl.bundle import Artifact, Bundle
from edgetl.errors import ParityError
from edgetl.outcomes import History
from edgetl.pipeline import BuildReport, BuildSettings, Summary, build
from edgetl.pipeline.artifacts import open_here
from edgetl.pipeline.measure import answer
from edgetl.records import Precision
from edgetl.runtime import Predictor, Session, verify_bundle


def report_of(bundle: Bundle) -> BuildReport:
    return BuildReport.model_validate_json(bundle.read("report.json"))


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
            "model.onnx", "labels.txt", "report.json", "history.json", "README.md", "golden/000.png", "golden/001.png",
            "golden/002.png", "golden/inputs.npy", "golden/model.npy",
        }  # fmt: skip
        assert built.read("labels.txt") == b"blue\ngreen\nred\n"

    def test_what_each_epoch_came_to_stands_in_a_file_of_its_own(self, built: Bundle) -> None:
        history = History.model_validate_json(built.read("history.json"))
        assert history == report_of(built).training.tuned.history
        assert [epoch.epoch for epoch in history.epochs] == [0, 1]

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

    def test_a_precision_that_was_named_was_not_chosen(self, small_build: dict[str, Any], tmp_path: Path) -> None:
        card = build(BuildSettings(**small_build, precision="fp32", out=tmp_path / "out")).read("README.md").decode()
        assert (
            "regularisation and when to stop\n  on 3 more that were held out of training. Precision was named: fp32."
            in card
        )
        assert "Ranges for quantization" not in card


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
            "missed", "latency_ms", "size_bytes", "seconds",
        ]  # fmt: skip
        assert list(summary["seconds"]) == ["frozen", "tune", "total"]
        assert summary["size_bytes"]["float"] > 1_000_000
