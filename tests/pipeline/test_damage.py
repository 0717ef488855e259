"""Tests of edgetl/pipeline/damage.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgetl.data import Item
from edgetl.pipeline.damage import ClassDamage, Damage, Flip, measure_damage
from edgetl.records import FloatArray

LABELS = ("cat", "dog", "fox")
ITEMS = tuple(
    Item(path=Path(f"val/{number}.jpg"), label=label, split="val", sha256=str(number))
    for number, label in enumerate((0, 0, 1, 1))
)


def logits(*classes: int, sure: float) -> FloatArray:
    """Return logits that answer these classes, each with this probability, the others sharing the rest."""
    rest = (1 - sure) / (len(LABELS) - 1)
    return np.log(np.where(np.eye(len(LABELS))[list(classes)] == 1, sure, rest)).astype(np.float32)


@pytest.fixture
def damage() -> Damage:
    return measure_damage(logits(0, 0, 1, 2, sure=0.9), logits(0, 2, 1, 1, sure=0.6), ITEMS, LABELS)


def test_what_is_lost_and_gained_is_counted(damage: Damage) -> None:
    assert (damage.drop.images, damage.drop.lost, damage.drop.gained, damage.drop.points) == (4, 1, 1, 0.0)


def test_every_class_that_has_photos_has_its_accuracy_before_and_after(damage: Damage) -> None:
    assert damage.by_class == (
        ClassDamage(label="cat", images=2, before=1.0, after=0.5),
        ClassDamage(label="dog", images=2, before=0.5, after=1.0),
    )


def test_every_photo_that_is_answered_otherwise_is_named_with_both_answers(damage: Damage) -> None:
    assert [(each.path, each.actual, each.before, each.after) for each in damage.flips] == [
        ("val/1.jpg", "cat", "cat", "fox"),
        ("val/3.jpg", "dog", "fox", "dog"),
    ]
    first: Flip = damage.flips[0]
    assert (first.confidence_before, first.confidence_after) == (pytest.approx(0.9), pytest.approx(0.6))


def test_the_calibration_error_is_told_before_and_after(damage: Damage) -> None:
    # Three of four right at 0.9, and three of four right at 0.6.
    assert damage.calibration_error == (pytest.approx(0.15), pytest.approx(0.15))


def test_the_same_answers_do_no_damage() -> None:
    same = logits(0, 1, 1, 2, sure=0.7)
    found = measure_damage(same, same, ITEMS, LABELS)
    assert found.flips == ()
    assert (found.drop.lost, found.drop.gained) == (0, 0)
    assert found.calibration_error[0] == found.calibration_error[1]
