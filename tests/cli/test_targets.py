"""Tests of edgetl/cli/targets.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgetl.target import load_target, target_names

Run = Callable[..., Any]


def test_every_target_has_a_line_with_engine_precisions_and_description(edgetl: Run) -> None:
    ran = edgetl("targets")
    assert ran.code == 0
    assert [line.split()[0] for line in ran.out.splitlines()] == list(target_names())
    cpu = next(line for line in ran.out.splitlines() if line.startswith("cpu "))
    assert "onnxruntime" in cpu and "int8 or fp32" in cpu
    assert cpu.endswith(load_target("cpu").description)


def test_json_is_one_object_with_whole_profiles(edgetl: Run) -> None:
    ran = edgetl("targets", "--json")
    assert ran.code == 0
    assert list(ran.json) == ["targets"]
    assert [each["name"] for each in ran.json["targets"]] == list(target_names())
    assert all({"schema", "engine", "budget"} <= each.keys() for each in ran.json["targets"])
