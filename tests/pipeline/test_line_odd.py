"""Tests of a whole build on photos and settings that are wrong or odd."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from edgetl.bundle import Bundle
from edgetl.errors import BackboneError, BundleError, DataError, TrainingError
from edgetl.pipeline import BuildReport, BuildSettings, Plan, build, steps
from edgetl.records import Progress


class Stop(Exception):  # noqa: N818
    """Raised in the middle of a build."""


class TestWrongInput:
    @pytest.mark.usefixtures("no_work", "no_stages")
    def test_an_output_folder_that_is_no_bundle_is_refused_before_any_work(
        self, settings: BuildSettings, lines: Any
    ) -> None:
        settings.out.mkdir()
        (settings.out / "thesis.txt").write_text("years of work")
        with pytest.raises(BundleError, match=r"out: exists and is no bundle, so it is not replaced"):
            build(settings, lines)
        assert lines.said == []
        assert [path.name for path in settings.out.iterdir()] == ["thesis.txt"]

    @pytest.fixture
    def one_bad(self, colours: Path, tmp_path: Path) -> str:
        """Return a folder of photos of which one is a text."""
        photos = shutil.copytree(colours, tmp_path / "photos")
        (Path(photos) / "red" / "00.png").write_text("I am a text")
        return str(photos)

    def test_a_bad_photo_stops_the_build_after_the_check(
        self, one_bad: str, settings: BuildSettings, lines: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delitem(steps.STEPS, "view")
        with pytest.raises(
            DataError, match=r"1 of 36 photos cannot be read:\n  red/00\.png: not a picture.*\n.*--skip"
        ):
            build(settings.model_copy(update={"data": one_bad}), lines)
        assert len(lines.said) == 1

    def test_a_bad_photo_is_skipped_where_that_is_asked_for(
        self, one_bad: str, settings: BuildSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plans = []

        def keep(plan: Plan, progress: Progress, folder: Path) -> None:
            plans.append(plan)
            raise Stop

        monkeypatch.setitem(steps.STEPS, "view", keep)
        with pytest.raises(Stop):
            build(settings.model_copy(update={"data": one_bad, "skip_bad": True}))
        photos = plans[0].photos
        names = {item.path.as_posix() for item in (*photos.train, *photos.held, *photos.unseen)}
        assert len(names) == 35
        assert "red/00.png" not in names

    def test_one_training_photo_a_class_is_too_few_to_hold_any_out(
        self, write_colours: Callable[..., Path], settings: BuildSettings, tmp_path: Path
    ) -> None:
        for split in ("train", "val"):
            write_colours(tmp_path / "few" / split, red=1, blue=1)
        with pytest.raises(DataError, match=r"every class has a single training photo, so none can be held out .* Add"):
            build(settings.model_copy(update={"data": str(tmp_path / "few")}))

    def test_photos_too_small_for_the_network_are_an_error_with_a_size_that_works(
        self, settings: BuildSettings
    ) -> None:
        small = settings.model_copy(update={"backbone": "torchvision/alexnet", "image_size": 16})
        with pytest.raises(BackboneError, match=r"cannot read photos of 16x16 pixels .* Set --image-size 224"):
            build(small)

    @pytest.mark.usefixtures("built")
    def test_training_that_diverges_keeps_the_last_good_state(
        self, settings: BuildSettings, cache_base: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import torch.nn.functional as F

        cross_entropy = F.cross_entropy

        def spoilt(*given: Any, **named: Any) -> Any:
            return cross_entropy(*given, **named) * (float("nan") if "label_smoothing" in named else 1.0)

        monkeypatch.setattr("edgetl.finetune.run.F.cross_entropy", spoilt)
        with pytest.raises(
            TrainingError, match=r"the loss became nan in epoch 1\. .* That state is kept in .*\.safetensors"
        ) as seen:
            build(settings.model_copy(update={"epochs": 2}))
        (kept,) = (cache_base / "rescued").iterdir()
        assert str(kept) in str(seen.value)
        assert load_file(kept)["head.weight"].shape == (3, 512)
        assert not settings.out.exists()


@dataclass(frozen=True, kw_only=True)
class Odd:
    """A build of photos with a fault each way, for a target that allows float only and can hardly be met."""

    bundle: Bundle
    report: BuildReport
    said: list[str]


@pytest.fixture(scope="module")
def odd(
    write_colours: Callable[..., Path],
    write_target: Callable[..., str],
    small_build: dict[str, Any],
    keep_lines: type[Any],
    cache_base: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Odd:
    base = tmp_path_factory.mktemp("odd")
    for split, count in (("train", 8), ("val", 3), ("test", 3)):
        write_colours(base / "photos" / split, red=count, blue=count)
    shutil.copy(base / "photos/train/red/00.png", base / "photos/test/blue/again.png")
    shutil.copy(base / "photos/test/blue/00.png", base / "photos/test/blue/copy.png")
    (base / "photos/train/blue/text.jpg").write_text("I am a text")
    settings = {
        **small_build, "data": str(base / "photos"), "skip_bad": True, "epochs": 0, "golden": 0,
        "target": write_target(precisions=("fp32",), size_bytes=1000, latency_ms_p50=1e-6),
    }  # fmt: skip

    seen = keep_lines()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGETL_CACHE", str(cache_base))
        with pytest.warns(UserWarning, match=r"out misses its budget: latency .*; size "):
            bundle = build(BuildSettings(**settings, out=base / "out"), seen)
    report = BuildReport.model_validate_json(bundle.read("report.json"))
    return Odd(bundle=bundle, report=report, said=seen.said)


class TestOddBuild:
    def test_a_training_photo_that_is_measured_on_is_named_and_left_out(self, odd: Odd) -> None:
        (leak,) = odd.report.check.leaks
        assert (leak.train, leak.measured) == ("train/red/00.png", "test/blue/again.png")
        assert "train/red/00.png is test/blue/again.png" in odd.said
        assert "photos left out of training, for they are measured on: 1; all are named in report.json" in odd.said
        assert "1 that cannot be read, 1 of training that is measured on too" in odd.bundle.read("README.md").decode()

    def test_a_picture_under_two_labels_is_named(self, odd: Odd) -> None:
        (conflict,) = odd.report.check.conflicts
        assert conflict.paths == ("test/blue/again.png", "train/red/00.png")
        assert "test/blue/again.png is train/red/00.png" in odd.said
        assert "photos under several labels, and counted under each: 1; all are named in report.json" in odd.said

    def test_a_copy_is_counted_on_the_screen_and_named_in_the_report(self, odd: Odd) -> None:
        (copied,) = odd.report.check.duplicates
        assert copied.paths == ("test/blue/00.png", "test/blue/copy.png")
        assert "copies of another photo of their split: 1; all are named in report.json" in odd.said

    def test_a_photo_left_out_is_named(self, odd: Odd) -> None:
        (bad,) = odd.report.check.bad
        assert bad.path == "train/blue/text.jpg"
        assert any(line.startswith("train/blue/text.jpg: not a picture") for line in odd.said)
        assert "photos left out, for they cannot be read: 1; all are named in report.json" in odd.said

    def test_results_are_on_test_where_there_is_one(self, odd: Odd) -> None:
        assert (odd.report.accuracy.split, odd.report.accuracy.images) == ("test", 8)
        assert odd.report.train_images + odd.report.held_out_images == 15

    def test_no_epochs_leave_the_frozen_stages_answers(self, odd: Odd) -> None:
        assert len(odd.report.training.tuned.history.epochs) == 1
        assert odd.report.accuracy.float_ == odd.report.accuracy.frozen

    def test_no_golden_photos_are_kept_where_none_are_asked_for(self, odd: Odd) -> None:
        assert odd.bundle.manifest.golden is None
        assert not (odd.bundle.folder / "golden").exists()

    def test_a_target_that_allows_float_only_gets_float(self, odd: Odd) -> None:
        assert odd.bundle.manifest.artifact.precision == "fp32"
        assert odd.report.judged.verdict.reason == "float is all that is allowed"
        assert odd.report.calibration is None

    def test_every_bound_that_is_missed_is_said(self, odd: Odd) -> None:
        latency, size = odd.report.judged.missed
        assert latency.startswith("latency p50 ") and latency.endswith(" ms here, the budget is 1e-06 ms")
        assert size.startswith("size ") and size.endswith(" bytes, the budget is 1000 bytes")
        card = odd.bundle.read("README.md").decode()
        assert all(f"**Misses its budget:** {each}.\n" in card for each in (latency, size))
