"""Tests of edgetl/cli/targets.py."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgetl.target import load_target, target_names

Run = Callable[..., Any]


def test_every_target_has_a_line_with_engine_precisions_and_description(edgetl: Run) -> None:
    ran = edgetl("targets")
    assert ran.code == 0
    assert [line.split()[0] for line in ran.out.splitlines()] == list(target_names())
    cpu = next(line for line in ran.out.splitlines() if line.startswith("cpu "))
    assert "onnxruntime" in cpu and "int8 or fp32" in cpu
    assert cpu.endswith(load_target("cpu").description)
    assert any(line.startswith("jetson-orin-nano = jetson ") for line in ran.out.splitlines())


def test_json_is_one_object_with_whole_profiles(edgetl: Run) -> None:
    ran = edgetl("targets", "--json")
    assert ran.code == 0
    assert list(ran.json) == ["targets"]
    assert [each["name"] for each in ran.json["targets"]] == list(target_names())
    assert all({"schema", "engine", "device", "budget", "source"} <= each.keys() for each in ran.json["targets"])


def test_show_prints_all_that_is_known_of_one(edgetl: Run) -> None:
    ran = edgetl("targets", "show", "jetson")
    target = load_target("jetson")
    assert ran.code == 0
    for words in ("jetson-orin-nano = jetson", "int8+fp16 or int8 or fp16", "tensorrt>=10.3", target.source, "10 ms"):
        assert words in ran.out
    assert edgetl("targets", "show", "jetson", "--json").json == target.model_dump(mode="json", by_alias=True)


def test_show_answers_a_typo_with_the_nearest(edgetl: Run) -> None:
    ran = edgetl("targets", "show", "raspberry-pi")
    assert (ran.code, ran.out) == (2, "")
    assert "Did you mean raspberry-pi-5" in ran.err


def test_detect_says_what_this_is_and_what_fits(edgetl: Run) -> None:
    ran = edgetl("targets", "detect")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert any(line.startswith("fits   cpu") for line in lines)
    assert sum(line.split()[0] in {"fits", "lacks", "no"} for line in lines) == len(target_names())
    found = edgetl("targets", "detect", "--json").json
    assert [each["target"] for each in found["targets"]] == list(target_names())
    assert found["machine"]["cores"] >= 1


@pytest.mark.parametrize("verb", [(), ("detect",)])
def test_one_of_the_users_own_that_cannot_be_read_is_named_and_left_out(
    verb: tuple[str, ...], edgetl: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "edgetl" / "targets").mkdir(parents=True)
    (tmp_path / "edgetl" / "targets" / "broken.toml").write_text("schema: 1")
    ran = edgetl("targets", *verb)
    assert ran.code == 0
    assert re.search(r"left out: .*broken\.toml: not TOML", ran.err)
    assert any("raspberry-pi-5" in line for line in ran.out.splitlines())
