"""Figures of merit of a classifier, in plain numpy."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from edgetl.records import FloatArray, IntArray, Record

__all__ = [
    "MOST_DB",
    "Drop",
    "accuracy",
    "agreement",
    "calibration_error",
    "compare_paired",
    "confusion_matrix",
    "least_provable",
    "macro_f1",
    "signal_to_noise",
    "wilson_interval",
]

# Sets of images drawn again, for a bootstrap interval.
DRAWS = 10_000
# Decibels that stand for all of a signal: more than numbers of 64 bits hold.
MOST_DB = 300.0
# Where none of n images did something, fewer than 3/n of all do, with 95 % confidence (Hanley and Lippman-Hand 1983).
NONE_SEEN = 3


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


def signal_to_noise(expected: FloatArray, found: FloatArray) -> float:
    """Return how much signal is left where logits are `found` in place of those `expected`, in decibels: 10 where what
    they part by has a tenth of their power, `MOST_DB` where they are equal, the negative of that where any is not
    finite; both have shape (images, classes)."""
    if not np.isfinite(found).all():
        return -MOST_DB
    signal, noise = (float(np.square(each, dtype=np.float64).sum()) for each in (expected, found - expected))
    if not noise:
        return MOST_DB
    decibels = 10 * (math.log10(signal) - math.log10(noise)) if signal else -MOST_DB
    return max(-MOST_DB, min(MOST_DB, decibels))


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


def calibration_error(probabilities: FloatArray, actual: IntArray, bins: int = 15) -> float:
    """Return the expected calibration error, in [0, 1]: how far confidence is from accuracy (Guo et al. 2017).

    Args:
        probabilities: of shape (images, classes).
        actual: the true classes, shape (images,).
        bins: of equal width, that images are sorted into by their confidence.

    Raises:
        ValueError: there is no image.
    """
    if actual.size == 0:
        raise ValueError("calibration_error needs at least one image")
    confidence, hits = probabilities.max(axis=1), probabilities.argmax(axis=1) == actual
    places = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(places, weights=hits - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / actual.size)


class Drop(Record):
    """What a second classifier loses against a first on the same images.

    `lost` images were right before and are wrong now, `gained` the other way round. `points` is the accuracy lost, in
    percentage points, negative where the second is better; `interval` its 95 % bootstrap interval; `p_value` McNemar's,
    that at least so many are lost by chance.
    """

    images: int
    lost: int
    gained: int
    points: float
    interval: tuple[float, float]
    p_value: float

    def in_words(self, photos: str) -> str:
        """Return what is lost, or gained, and how sure that is; `photos` says which the images are."""
        low, high = self.interval
        points = f"{abs(self.points):.2f}" if self.points else "no"
        change = f"{points} points {'gained' if self.points < 0 else 'lost'} on {self.images} {photos}"
        return f"{change} (95 % interval of the loss {low:.2f} to {high:.2f})"


def compare_paired(before: IntArray, after: IntArray, actual: IntArray) -> Drop:
    """Return what `after` loses against `before`, image by image; all are class indices of shape (images,).

    Raises:
        ValueError: there is no image, or the shapes differ.
    """
    if not before.shape == after.shape == actual.shape or actual.size == 0:
        raise ValueError(
            f"compare_paired needs equal, non-empty shapes, found {before.shape}, {after.shape}, {actual.shape}"
        )
    right_before, right_after = before == actual, after == actual
    lost, gained = int(np.sum(right_before & ~right_after)), int(np.sum(~right_before & right_after))
    return Drop(
        images=len(actual),
        lost=lost,
        gained=gained,
        points=100.0 * (lost - gained) / len(actual),
        interval=_drop_interval(lost, gained, len(actual)),
        p_value=_by_chance(lost, gained),
    )


def least_provable(images: int) -> float:
    """Return the points of accuracy that may be lost, with 95 % confidence, where none of so many images is."""
    return 100.0 * min(NONE_SEEN, images) / images


def _drop_interval(lost: int, gained: int, images: int) -> tuple[float, float]:
    """Return the 95 % interval of a drop in percentage points, by drawing the images again (Efron 1979, percentiles).

    Where no image at all was lost, or gained, as many are reckoned with as could have been missed.
    """
    shares = np.array([lost, gained, images - lost - gained]) / images
    drawn = np.random.default_rng(0).multinomial(images, shares, DRAWS)
    low, high = np.percentile(drawn[:, 0] - drawn[:, 1], [2.5, 97.5])
    if not lost:
        high = max(high, min(NONE_SEEN, images) - gained)
    if not gained:
        low = min(low, lost - min(NONE_SEEN, images))
    return 100.0 * float(low) / images, 100.0 * float(high) / images


def _by_chance(lost: int, gained: int) -> float:
    """Return how likely at least so many losses are, where each image that one alone gets right is lost or gained by
    chance: McNemar's exact test (1947), one-sided."""
    parted = lost + gained
    ways = sum(math.comb(parted, count) for count in range(lost, parted + 1))
    return float(Fraction(ways, 2**parted))
