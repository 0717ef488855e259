"""Tests of edgetl/bundle/manifest.py."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from edgetl.bundle import Manifest


@pytest.fixture
def said(tiny_bundle: Path) -> dict[str, Any]:
    """Return what the tiny bundle's manifest.json says, as plain data."""
    return dict(json.loads((tiny_bundle / "manifest.json").read_text()))


def test_a_manifest_comes_back_equal(said: dict[str, Any]) -> None:
    manifest = Manifest.model_validate(said)
    assert Manifest.model_validate_json(manifest.model_dump_json(by_alias=True)) == manifest


def test_the_file_uses_the_names_that_python_keeps_for_itself(said: dict[str, Any]) -> None:
    assert said["schema"] == 1
    assert said["accuracy"]["float"] == 0.75
    assert not {"schema_", "float_"} & {*said, *said["accuracy"]}


def test_a_bundle_without_golden_photos_says_so(make_bundle: Any, tmp_path: Path) -> None:
    assert make_bundle(tmp_path / "out", golden=False).manifest.golden is None


@pytest.mark.parametrize("record", ["golden", "accuracy", "weights", "preprocess"])
def test_an_unknown_key_in_any_record_is_refused(record: str, said: dict[str, Any]) -> None:
    said[record]["colour"] = "red"
    with pytest.raises(ValidationError, match=rf"{record}\.colour\s+Extra inputs are not permitted"):
        Manifest.model_validate(said)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("task",), "detection", "Input should be 'classification'"),
        (("labels",), ["apple"], "at least 2 items"),
        (("artifacts", 0, "precision"), "int4", "'fp32', 'fp16', 'bf16', 'int8' or 'int8\\+fp16'"),
        (("artifacts", 0, "execution", "threads"), -1, "greater than or equal to 0"),
        (("golden", "pixel_tolerance"), 256, "less than or equal to 255"),
        (("golden", "pixel_tolerance"), -1, "greater than or equal to 0"),
        (("golden", "expected", "model.onnx", "tolerance"), 0, "greater than 0"),
        (("accuracy", "split"), "train", "'val' or 'test'"),
        (("files", "model.onnx", "sha256"), "abc", "should match pattern"),
        (("files", "model.onnx", "sha256"), "A" * 64, "should match pattern"),
        (("files", "model.onnx", "size_bytes"), -1, "greater than or equal to 0"),
    ],
)
def test_a_value_that_says_something_impossible_is_refused(
    path: tuple[Any, ...], value: object, message: str, said: dict[str, Any]
) -> None:
    record = changed = copy.deepcopy(said)
    for key in path[:-1]:
        record = record[key]
    record[path[-1]] = value
    with pytest.raises(ValidationError, match=message):
        Manifest.model_validate(changed)


@pytest.mark.parametrize("key", ["task", "labels", "preprocess", "artifacts", "golden", "weights", "ladder", "files"])
def test_a_manifest_that_leaves_something_out_is_refused(key: str, said: dict[str, Any]) -> None:
    del said[key]
    with pytest.raises(ValidationError, match=rf"{key}\s+Field required"):
        Manifest.model_validate(said)
