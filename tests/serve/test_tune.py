"""Tests of finding how a machine answers most photos, and of using that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

serve = pytest.importorskip("edgetl.serve", reason="fastapi answers over HTTP")

from edgetl.bundle import Bundle  # noqa: E402
from edgetl.cli.app import app  # noqa: E402
from edgetl.errors import SettingsError  # noqa: E402
from edgetl.serve import tune  # noqa: E402
from edgetl.serve.tuning import Tuning, choose, cores, keep_tuning  # noqa: E402

pytestmark = pytest.mark.alone

ODD = Tuning(workers=3, threads=2, batch=5, delay_ms=7.0)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a cache folder of the test's own."""
    monkeypatch.setenv("EDGETL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def settings(folder: Path, **flags: Any) -> Any:
    return serve.read_settings([str(folder)], flags)


class TestChoosing:
    def test_what_was_found_is_used_and_what_was_typed_goes_before_it(self, cache: Path, tiny_bundle: Path) -> None:
        bundle = Bundle.open(tiny_bundle)
        plain = choose(settings(tiny_bundle), bundle)
        assert (plain.threads, plain.batch) == (1, 1)
        keep_tuning(bundle, ODD)
        assert choose(settings(tiny_bundle), bundle) == ODD
        assert choose(settings(tiny_bundle, batch=1, workers=0), bundle) == ODD.model_copy(
            update={"batch": 1, "workers": plain.workers}
        )

    def test_it_is_found_for_the_build_that_it_was_measured_with(
        self, cache: Path, tiny_bundle: Path, make_bundle: Any, tmp_path: Path
    ) -> None:
        keep_tuning(Bundle.open(tiny_bundle), ODD)
        other = make_bundle(tmp_path / "other", build="9" * 64)
        assert choose(settings(other.folder), other).batch == 1

    @pytest.mark.parametrize("content", ["", "{}", '{"workers": -1}', "\x00"])
    def test_a_damaged_file_says_nothing(self, content: str, cache: Path, tiny_bundle: Path) -> None:
        bundle = Bundle.open(tiny_bundle)
        keep_tuning(bundle, ODD).write_text(content)
        assert choose(settings(tiny_bundle), bundle).batch == 1

    def test_a_service_is_told_it_since_it_has_a_cache_of_its_own(self, cache: Path, tiny_bundle: Path) -> None:
        keep_tuning(Bundle.open(tiny_bundle), ODD)
        unit = serve.write_unit(settings(tiny_bundle, threads=1))
        assert " --threads 1 --workers 3 --batch 5 --delay-ms 7.0\n" in unit

    def test_a_folder_that_cannot_be_written_is_said(self, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("EDGETL_CACHE", "/proc/nowhere")
        with pytest.raises(SettingsError, match=r"/proc/nowhere/serve/.*: cannot be written: .* Set EDGETL_CACHE"):
            keep_tuning(Bundle.open(tiny_bundle), ODD)


class TestMeasuring:
    def test_a_plan_is_given_no_more_at_once_than_it_was_made_for(self, tiny_bundle: Path) -> None:
        artifact = Bundle.open(tiny_bundle).manifest.artifact
        planned = artifact.model_copy(
            update={"execution": artifact.execution.model_copy(update={"device": "cuda", "batch_sizes": (1, 4)})}
        )
        assert {way.batch for way in tune.candidates(artifact, 4)} == {1, 4, 8}
        assert {way.batch for way in tune.candidates(planned, 4)} == {1, 4}

    def test_on_one_core_no_way_is_tried_twice(self, tiny_bundle: Path) -> None:
        ways = list(tune.candidates(Bundle.open(tiny_bundle).manifest.artifact, 1))
        assert len(ways) == len(set(ways))
        assert ways[0] == Tuning(workers=1, threads=1, batch=1, delay_ms=2.0)

    def test_a_bundle_without_golden_photos_cannot_be_measured(self, make_bundle: Any, tmp_path: Path) -> None:
        bare = make_bundle(tmp_path / "bare", golden=False)
        with pytest.raises(SettingsError, match="holds no golden photos to measure with"):
            serve.find_tuning(settings(bare.folder), pytest.importorskip("edgetl.records").Quiet())

    def test_the_best_is_kept_and_used_from_then_on(
        self, cache: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(tune, "SECONDS", 0.2)
        monkeypatch.setattr(tune, "ROUNDS", 1)
        app(["serve", str(tiny_bundle), "--tune", "--queue", "1"], standalone_mode=False)
        printed = capsys.readouterr().out
        (kept,) = (cache / "serve").iterdir()
        best = Tuning.model_validate_json(kept.read_bytes())
        rows = [line.split() for line in printed.splitlines() if line.split()[:1] and line.split()[0].isdigit()]
        assert [int(word) for word in rows[0][:3]] == [best.workers, best.threads, best.batch]
        assert len(rows) == len(list(tune.candidates(Bundle.open(tiny_bundle).manifest.artifact, cores())))
        assert all(float(rate) > 0 and float(p50) > 0 for *_, rate, p50 in rows)
        assert "The first is used from now on" in printed
        assert choose(settings(tiny_bundle), Bundle.open(tiny_bundle)) == best
