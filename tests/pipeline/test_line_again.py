"""Tests of edgetl/pipeline/line.py: a build that is made again, is stopped, or meets a full disk."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgetl.bundle import Bundle
from edgetl.errors import BackboneError, MissingError
from edgetl.pipeline import BuildReport, BuildSettings, Plan, build, build_each, steps
from edgetl.records import Progress
from edgetl.runtime import verify_bundle

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
    timed = {each.precision: each.latency for each in report_of(built).judged.measured}
    monkeypatch.setattr("edgetl.pipeline.measure._latencies", lambda *given: timed)


class TestSecondBuild:
    @pytest.mark.usefixtures("no_work")
    def test_the_same_again_does_no_stage(self, built: Bundle, small_build: dict[str, Any], lines: Any) -> None:
        written = (built.folder / "manifest.json").stat().st_mtime_ns
        again = build(BuildSettings(**small_build, out=built.folder), lines)
        assert again == built
        assert lines.said == [f"{built.folder} is up to date"]
        assert (built.folder / "manifest.json").stat().st_mtime_ns == written

    def test_the_same_again_imports_nothing_that_takes_seconds(
        self, built: Bundle, small_build: dict[str, Any], cache_base: Path
    ) -> None:
        script = (
            "import sys\nfrom edgetl import BuildSettings, build\n"
            f"bundle = build(BuildSettings(**{small_build!r}, out={str(built.folder)!r}))\n"
            "print(bundle.folder, *{'torch', 'torchvision', 'onnx', 'sklearn', 'nncf', 'modelopt'} & set(sys.modules))"
        )
        ran = subprocess.run(
            [sys.executable, "-c", script], env={**os.environ, "EDGETL_CACHE": str(cache_base)}, capture_output=True,
            text=True, timeout=100, check=True,
        )  # fmt: skip
        assert ran.stdout == f"{built.folder}\n"

    def test_weights_that_are_not_there_are_not_up_to_date(self, built: Bundle, small_build: dict[str, Any]) -> None:
        with pytest.raises(BackboneError, match=r"--weights randon: no such file"):
            build(BuildSettings(**{**small_build, "weights": "randon"}, out=built.folder))

    @pytest.mark.usefixtures("no_work")
    def test_of_several_targets_only_what_is_not_up_to_date_is_written(
        self, built: Bundle, small_build: dict[str, Any], tmp_path: Path, lines: Any
    ) -> None:
        shutil.copytree(built.folder, tmp_path / "cpu")
        first = BuildSettings(**small_build, out=tmp_path / "cpu")
        other = BuildSettings(**{**small_build, "precision": "fp32"}, target="arm64", out=tmp_path / "arm64")
        found = build_each([first, other], lines)
        assert next(found).folder == tmp_path / "cpu"
        assert lines.said == ["target cpu", f"{tmp_path / 'cpu'} is up to date"]
        # What is not there is begun, and the tests let no stage work.
        with pytest.raises(AssertionError, match="begins to work"):
            next(found)

    @pytest.mark.usefixtures("no_work", "built")
    def test_another_out_is_written_from_the_stages_that_are_done(
        self, built: Bundle, settings: BuildSettings, lines: Any, fingerprint: Fingerprint
    ) -> None:
        bundle = build(settings, lines)
        first, *rest = (f"{name}: already done" for name in STAGES)
        few = "few photos to train on: blue 10, green 10, red 10. Twenty a class are a good start, a hundred are better"
        assert lines.said == [first, few, *rest]
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
                shutil.copytree(
                    saved / {stage.name: stage.folder.name for stage in plan.stages}[name], folder, dirs_exist_ok=True
                )

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
