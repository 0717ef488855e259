"""Tests of edgetl/cli/verify.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgetl.bundle import Parity, Rung
from edgetl.errors import missing_library

Run = Callable[..., Any]


def test_a_whole_bundle_is_said_to_be_whole(edgetl: Run, tiny_bundle: Path) -> None:
    ran = edgetl("verify", tiny_bundle)
    assert ran.code == 0
    assert "files are as the manifest says" in ran.out
    assert "4 golden photos answered alike by onnxruntime on cpu, fp32" in ran.out


def test_json_is_one_object(edgetl: Run, tiny_bundle: Path) -> None:
    ran = edgetl("verify", tiny_bundle, "--json")
    assert ran.code == 0
    assert list(ran.json) == ["bundle", "engine", "files", "ladder", "replayed", "skipped"]
    assert ran.json["replayed"][0]["golden"]["images"] == 4


def test_a_bundle_without_golden_photos_says_so(edgetl: Run, make_bundle: Callable[..., Any], tmp_path: Path) -> None:
    ran = edgetl("verify", make_bundle(tmp_path / "bare", golden=False).folder)
    assert ran.code == 0
    assert "holds no golden photos, so its answers were not replayed" in ran.out


def test_a_damaged_file_is_named(edgetl: Run, own_bundle: Path) -> None:
    (own_bundle / "labels.txt").write_text("apple\n")
    ran = edgetl("verify", own_bundle)
    assert (ran.code, ran.out) == (2, "")
    assert "labels.txt: damaged or changed" in ran.err


def test_other_answers_than_the_builds_exit_as_a_miss(
    edgetl: Run, own_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgetl.runtime import on_onnxruntime

    opened = on_onnxruntime.open_session

    def other(*given: Any) -> Any:
        session = opened(*given)
        run = session.run
        session.run = lambda images: run(images) + np.float32(1.0)
        return session

    monkeypatch.setattr(on_onnxruntime, "open_session", other)
    ran = edgetl("verify", own_bundle)
    assert (ran.code, ran.out) == (3, "")
    assert "ParityError: golden images are answered differently here: a logit differs by 1" in ran.err


def test_an_engine_that_is_missing_exits_with_what_to_install(
    edgetl: Run, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(*given: Any) -> Any:
        raise missing_library("onnxruntime", "ort", "run this bundle")

    monkeypatch.setattr("edgetl.runtime.on_onnxruntime.open_session", absent)
    ran = edgetl("verify", tiny_bundle)
    assert ran.code == 4
    assert "onnxruntime is needed to run this bundle and is not installed. Run: pip install 'edgetl[ort]'" in ran.err


def test_the_ladder_is_printed_rung_by_rung(edgetl: Run, make_bundle: Callable[..., Any], tmp_path: Path) -> None:
    parity = Parity(
        max_relative_error=2e-4, mean_relative_error=1e-5, cosine=0.99999, top1_agreement=1.0, near_ties=1, images=128
    )
    rung = Rung(name="core", answered_by="the graph", against="the trained network", parity=parity)
    bundle = make_bundle(tmp_path / "proved", ladder=(rung,)).folder
    ran = edgetl("verify", bundle, "--ladder")
    (line,) = [line for line in ran.out.splitlines() if line.startswith("core ")]
    assert line.split(maxsplit=1)[1].split("  ")[0] == "the graph"
    assert line.endswith("0.0002    1e-05  0.99999  100.0 % of 128 photos; 1 changed among near-ties")
    assert "the trained network" in line
    assert "the trained network" not in edgetl("verify", bundle).out
