"""Tests of edgetl/cli/predict.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


def test_each_photo_is_answered_in_a_line(edgetl: Run, tiny_bundle: Path, tiny_photos: tuple[Path, ...]) -> None:
    ran = edgetl("predict", tiny_bundle, *tiny_photos)
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert [line.split(": ")[0] for line in lines] == [str(path) for path in tiny_photos]
    assert all(line.count(" %") == 3 and line.endswith(" ms)") for line in lines)


def test_json_is_one_object_with_all_photos(edgetl: Run, tiny_bundle: Path, tiny_photos: tuple[Path, ...]) -> None:
    ran = edgetl("predict", tiny_bundle, *tiny_photos[:2], "--json")
    assert ran.code == 0
    assert ran.json["bundle"] == str(tiny_bundle)
    assert [each["photo"] for each in ran.json["predictions"]] == [str(path) for path in tiny_photos[:2]]
    for each in ran.json["predictions"]:
        assert list(each) == ["photo", "label", "scores", "time_ms"]
        assert each["label"] == each["scores"][0]["label"]
        assert sum(score["score"] for score in each["scores"]) == pytest.approx(1.0, abs=1e-5)
        assert list(each["time_ms"]) == ["decode", "preprocess", "inference", "postprocess"]


def test_top_says_how_many_labels(edgetl: Run, tiny_bundle: Path, tiny_photos: tuple[Path, ...]) -> None:
    ran = edgetl("predict", tiny_bundle, tiny_photos[0], "--top", 1, "--json")
    assert len(ran.json["predictions"][0]["scores"]) == 1


def test_a_top_of_none_is_refused(edgetl: Run, tiny_bundle: Path, tiny_photos: tuple[Path, ...]) -> None:
    ran = edgetl("predict", tiny_bundle, tiny_photos[0], "--top", 0)
    assert (ran.code, ran.out) == (2, "")
    assert "top must be at least 1, found 0" in ran.err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [("none.jpg", None, "none.jpg: no such file"), ("text.jpg", b"I am a text", "text.jpg: not a picture in a format")],
)
def test_a_photo_that_cannot_be_read_is_named(
    name: str, content: bytes | None, message: str, edgetl: Run, tiny_bundle: Path, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    ran = edgetl("predict", tiny_bundle, tmp_path / name)
    assert (ran.code, ran.out) == (2, "")
    assert message in ran.err
    assert "Traceback" not in ran.err


def test_a_photo_that_cannot_be_read_does_not_cost_the_others_their_answers(
    edgetl: Run, tiny_bundle: Path, tiny_photos: tuple[Path, ...], tmp_path: Path
) -> None:
    ran = edgetl("predict", tiny_bundle, tmp_path / "none.jpg", tiny_photos[0], "--json")
    assert ran.code == 2
    assert [each["photo"] for each in ran.json["predictions"]] == [str(tiny_photos[0])]
    missing = tmp_path / "none.jpg"
    assert ran.json["failed"] == [{"photo": str(missing), "error": f"{missing}: no such file"}]


def test_a_folder_that_is_no_bundle_is_told(edgetl: Run, tiny_photos: tuple[Path, ...], tmp_path: Path) -> None:
    ran = edgetl("predict", tmp_path, tiny_photos[0])
    assert ran.code == 2
    assert (
        "not a bundle (a folder without manifest.json). Make one with: edgetl build --data PHOTOS --out BUNDLE"
        in ran.err
    )
