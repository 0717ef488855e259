"""What quantization did to the answers: by class, photo by photo, and to how sure they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgetl.data import Item, labels_of
from edgetl.metrics import Drop, calibration_error, compare_paired
from edgetl.records import FloatArray, Record
from edgetl.runtime import softmax

__all__ = ["ClassDamage", "Damage", "Flip", "measure_damage"]


class ClassDamage(Record):
    """The accuracy on one class that has photos, in [0, 1], before and after."""

    label: str
    images: int
    before: float
    after: float


class Flip(Record):
    """One photo, by its path in the dataset, that is answered otherwise than before, and how sure both answers are."""

    path: str
    actual: str
    before: str
    after: str
    confidence_before: float
    confidence_after: float


class Damage(Record):
    """What changes on the evaluation split when what ships takes float's place.

    `calibration_error` is the expected calibration error in [0, 1], before and after.
    """

    drop: Drop
    by_class: tuple[ClassDamage, ...]
    flips: tuple[Flip, ...]
    calibration_error: tuple[float, float]


def measure_damage(before: FloatArray, after: FloatArray, items: Sequence[Item], labels: Sequence[str]) -> Damage:
    """Return what changes from one classifier to another on the same photos.

    Args:
        before: logits of shape (photos, classes).
        after: the other's.
        items: the photos.
        labels: of the classes.
    """
    actual = labels_of(items)
    sure = [softmax(logits) for logits in (before, after)]
    first, second = (logits.argmax(axis=1) for logits in (before, after))

    def accuracies(label: int) -> ClassDamage:
        there = actual == label
        shares = [float(np.mean(answers[there] == label)) for answers in (first, second)]
        return ClassDamage(label=labels[label], images=int(there.sum()), before=shares[0], after=shares[1])

    flips = tuple(
        Flip(
            path=items[row].path.as_posix(),
            actual=labels[items[row].label],
            before=labels[first[row]],
            after=labels[second[row]],
            confidence_before=float(sure[0][row].max()),
            confidence_after=float(sure[1][row].max()),
        )
        for row in np.flatnonzero(first != second).tolist()
    )
    return Damage(
        drop=compare_paired(first, second, actual),
        by_class=tuple(map(accuracies, np.unique(actual).tolist())),
        flips=flips,
        calibration_error=(calibration_error(sure[0], actual), calibration_error(sure[1], actual)),
    )
