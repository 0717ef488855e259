"""Figures of merit of a classifier, in plain numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgetl.records import FloatArray, IntArray

__all__ = ["PairedResult", "accuracy", "agreement", "compare_paired", "confusion_matrix", "macro_f1", "wilson_interval"]


def accuracy(predicted: IntArray, actual: IntArray) -> float:
    """Return the share of right answers, in [0, 1]; both arrays have shape (images,).

    Raises:
        ValueError: there is no image, or the shapes differ.
    """
    if predicted.shape != actual.shape or predicted.size == 0:
        raise ValueError(f"accuracy needs two equal, non-empty shapes, found {predicted.shape} and {actual.shape}")
    return float(np.mean(predicted == actual))


def agreement(first: FloatArray, second: FloatArray) -> float:
    """Return the share of images whose top class is the same, in [0, 1]; logits have shape (images, classes)."""
    return accuracy(first.argmax(axis=1), second.argmax(axis=1))


def confusion_matrix(predicted: IntArray, actual: IntArray, classes: int) -> IntArray:
    """Return counts of shape (classes, classes): row = actual class, column = predicted class."""
    matrix = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(matrix, (actual, predicted), 1)
    return matrix


def macro_f1(confusion: IntArray) -> float:
    """Return the mean F1 score, in [0, 1], over the classes that occur as actual or predicted.

    Raises:
        ValueError: the matrix counts nothing.
    """
    if not confusion.any():
        raise ValueError("macro_f1 needs at least one image, found an empty confusion matrix")
    hits = np.diag(confusion).astype(np.float64)
    seen = confusion.sum(axis=0) + confusion.sum(axis=1)
    present = seen > 0
    return float(np.mean(2 * hits[present] / seen[present]))


def wilson_interval(hits: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """Return the interval of a share, in [0, 1], by Wilson's score (1927); z = 1.96 gives 95 %.

    Raises:
        ValueError: count is not positive, or hits is outside 0..count.
    """
    if count <= 0 or not 0 <= hits <= count:
        raise ValueError(f"wilson_interval needs 0 <= hits <= count and count > 0, found {hits} of {count}")
    share = hits / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    spread = z * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    # All or none right touches the border; rounding must not leave the share outside its own interval.
    return max(0.0, min(share, float(middle - spread))), min(1.0, max(share, float(middle + spread)))


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedResult:
    """Two classifiers on the same images: what the second loses, image by image.

    `lost` images were right before and are wrong now; `gained` the other way round.
    """

    images: int
    lost: int
    gained: int

    @property
    def drop_points(self) -> float:
        """Accuracy lost, in percentage points; negative where the second is better."""
        return 100.0 * (self.lost - self.gained) / self.images


def compare_paired(before: IntArray, after: IntArray, actual: IntArray) -> PairedResult:
    """Return what `after` loses and gains against `before`; all are class indices of shape (images,).

    Raises:
        ValueError: there is no image, or the shapes differ.
    """
    if not before.shape == after.shape == actual.shape or actual.size == 0:
        raise ValueError(
            f"compare_paired needs equal, non-empty shapes, found {before.shape}, {after.shape}, {actual.shape}"
        )
    right_before, right_after = before == actual, after == actual
    return PairedResult(
        images=len(actual),
        lost=int(np.sum(right_before & ~right_after)),
        gained=int(np.sum(~right_before & right_after)),
    )
