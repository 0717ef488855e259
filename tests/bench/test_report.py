"""Tests of edgetl/bench/report.py."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from edgetl.bench import BenchReport, bench_bundle, report
from edgetl.errors import BundleError, SettingsError


@pytest.fixture(scope="module")
def found(tiny_bundle: Path) -> BenchReport:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "WARM_UP_SECONDS", 0.05)
        return bench_bundle(tiny_bundle, seconds=0.2)


def test_it_says_what_was_measured(found: BenchReport, tiny_bundle: Path) -> None:
    assert (found.bundle, found.target, found.engine, found.precision) == (
        str(tiny_bundle),
        "cpu",
        "onnxruntime",
        "fp32",
    )
    assert found.size_bytes == (tiny_bundle / "model.onnx").stat().st_size
    assert found.photos == "4 golden photos"


def test_single_stream_lasts_as_long_as_asked(found: BenchReport) -> None:
    latency = found.single_stream
    assert latency.count == len(latency.samples_ms) > 1
    assert sum(latency.samples_ms) <= 200 + max(latency.samples_ms)
    assert min(latency.samples_ms) > 0


def test_the_parts_of_one_prediction_are_about_the_whole(found: BenchReport) -> None:
    parts = found.split
    total = parts.decode_ms + parts.preprocess_ms + parts.inference_ms + parts.postprocess_ms
    assert 0 < total <= 1.5 * found.single_stream.p50_ms


def test_throughput_is_measured_with_a_photo_in_work_on_each_core(found: BenchReport) -> None:
    assert found.throughput_per_second > 0
    assert found.threads == os.cpu_count()


def test_a_fresh_process_opens_the_bundle_before_it_answers(found: BenchReport) -> None:
    cold = found.cold_start
    assert 0 < cold.opened_seconds < cold.answered_seconds
    # A process that holds Python and numpy is larger than 10 MB; one of 10 GB would not fit an edge device.
    assert 10e6 < cold.peak_memory_bytes < 10e9


def test_a_short_run_is_marked_quick(found: BenchReport) -> None:
    assert found.quick


def test_the_report_can_be_saved_and_read(found: BenchReport) -> None:
    assert BenchReport.model_validate_json(found.model_dump_json()) == found


def test_a_bundle_without_golden_photos_is_measured_on_a_made_up_one(
    make_bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "WARM_UP_SECONDS", 0.0)
    make_bundle(tmp_path / "out", golden=False)
    made_up = bench_bundle(tmp_path / "out", seconds=1e-6)
    assert made_up.photos == "one made-up photo of 640x480 (the bundle holds no golden ones)"
    # Even the shortest run measures something.
    assert made_up.single_stream.count == 1
    assert made_up.throughput_per_second > 0


@pytest.mark.parametrize("seconds", [0, -1, 3601, float("nan"), float("inf")])
def test_a_time_that_cannot_be_measured_for_is_refused(seconds: float, tiny_bundle: Path) -> None:
    with pytest.raises(SettingsError, match=rf"seconds must be above 0 and at most 3600, found {seconds:g}"):
        bench_bundle(tiny_bundle, seconds)


def test_what_is_no_bundle_is_not_measured(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="not a bundle"):
        bench_bundle(tmp_path)


def test_a_damaged_bundle_is_not_measured(own_bundle: Path) -> None:
    (own_bundle / "model.onnx").write_bytes(b"junk")
    with pytest.raises(BundleError, match=r"model\.onnx: damaged or changed"):
        bench_bundle(own_bundle)
