"""Tests of edgetl/cli/bench.py."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgetl.bench import BenchReport

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def _short_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgetl.bench.report.WARM_UP_SECONDS", 0.05)


def test_json_is_one_object_with_percentiles_split_throughput_memory_and_cold_start(
    edgetl: Run, tiny_bundle: Path
) -> None:
    ran = edgetl("bench", tiny_bundle, "--seconds", 0.2, "--json")
    assert ran.code == 0
    report = BenchReport.model_validate(ran.json)
    assert report.single_stream.p50_ms > 0
    assert set(ran.json["single_stream"]) >= {"p50_ms", "p90_ms", "p99_ms", "samples_ms"}
    assert list(ran.json["split"]) == ["decode_ms", "preprocess_ms", "inference_ms", "postprocess_ms"]
    assert report.throughput_per_second > 0
    assert report.cold_start.peak_memory_bytes > 1_000_000
    assert 0 < report.cold_start.opened_seconds <= report.cold_start.answered_seconds
    assert report.quick


def test_people_read_a_line_for_each_figure(edgetl: Run, tiny_bundle: Path) -> None:
    ran = edgetl("bench", tiny_bundle, "--seconds", 0.05)
    assert ran.code == 0
    first, *rest = ran.out.splitlines()
    assert first.startswith(f"{tiny_bundle}: onnxruntime on cpu, fp32, ")
    assert [line.split("  ")[0] for line in rest[:-1]] == [
        "machine", "single stream", "split (p50)", "throughput", "cold start"
    ]  # fmt: skip
    assert rest[-1] == "quick: for figures to publish, --seconds 60 or more"


def test_figures_of_another_machine_than_the_target_say_so(edgetl: Run, own_bundle: Path) -> None:
    manifest = own_bundle / "manifest.json"
    said = json.loads(manifest.read_text())
    other = "raspberry-pi-5" if platform.machine() == "x86_64" else "x86-server"
    manifest.write_text(json.dumps({**said, "target": other}))
    ran = edgetl("bench", own_bundle, "--seconds", 0.05)
    assert f"unlike         {other}, which needs " in ran.out
    manifest.write_text(json.dumps({**said, "target": "a box of nobody's"}))
    assert edgetl("bench", own_bundle, "--seconds", 0.05, "--json").json["unlike_target"] == []


def test_no_time_is_refused(edgetl: Run, tiny_bundle: Path) -> None:
    ran = edgetl("bench", tiny_bundle, "--seconds", 0)
    assert (ran.code, ran.out) == (2, "")
    assert "SettingsError: seconds must be above 0 and at most 3600, found 0" in ran.err


def test_a_folder_that_does_not_exist_is_told(edgetl: Run, tmp_path: Path) -> None:
    ran = edgetl("bench", tmp_path / "none")
    assert ran.code == 2
    assert "none: not a bundle (no such folder)" in ran.err
