"""Tests of edgetl/pipeline/photos.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgetl.pipeline import Plan


def test_choices_are_made_on_a_tenth_of_the_training_photos(plan_of: Callable[..., Plan], own_stages: Path) -> None:
    photos = plan_of().photos
    train, held, unseen = photos.train, photos.held, photos.unseen
    assert {item.split for item in (*train, *held)} == {"train"}
    assert {item.split for item in unseen} == {"val"}
    assert not set(train) & set(held)
    assert len(held) == 3
    assert {item.label for item in held} == {0, 1, 2}


def test_photos_are_found_in_what_is_kept_by_their_rows(plan_of: Callable[..., Plan], own_stages: Path) -> None:
    photos = plan_of().photos
    assert photos.kept == (*photos.held, *photos.unseen)
    backwards = photos.kept[::-1]
    assert photos.rows_of(backwards) == list(range(len(photos.kept)))[::-1]
    assert set(photos.proving) <= set(photos.held)
