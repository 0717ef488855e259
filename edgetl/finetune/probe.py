"""The linear probe: softmax regression on features that need not fit into memory."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgetl.metrics import accuracy
from edgetl.records import FloatArray, IntArray

__all__ = ["Linear", "choose_strength", "cross_validated", "fit_probe", "folds", "sampled", "spread_of"]

# A feature that hardly varies is not blown up to the size of the others, as plain standardising would: it would get a
# weight hundreds of times theirs, which multiplies INT8's rounding (seen: 92 % in float, 29 % in INT8).
LEAST_SPREAD = 0.3
# Inverse regularisation strengths that are tried, on standardised features; the usual one is for the comparison of
# features, where the same for all is fair.
STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
USUAL = 0.01
FOLDS = 5
# Photos that choose the strength, at the most: as many tell strengths apart.
CHOSEN_ON = 5_000
# Rows read at once, and values below which one thread is faster than two that wait for each other.
BLOCK, SMALL = 8_192, 1 << 26
MOST_STEPS, LEAST_GAIN, LEAST_SLOPE = 500, 1e-9, 1e-4


@dataclass(frozen=True, kw_only=True, slots=True)
class Linear:
    """Logits = features @ weight.T + bias; weight has shape (classes, features), bias (classes,)."""

    weight: FloatArray
    bias: FloatArray

    def logits(self, features: FloatArray) -> FloatArray:
        """Return logits of shape (images, classes) for features of shape (images, features)."""
        return np.asarray(features @ self.weight.T + self.bias, dtype=np.float32)


def fit_probe(
    views: Sequence[FloatArray], labels: IntArray, classes: int, strength: float, start: Linear | None = None
) -> Linear:
    """Return the softmax regression on features, which it takes as they are; they are standardised for the penalty.

    It is found by L-BFGS (Liu and Nocedal 1989); features on disk are read block by block in each step.

    Args:
        views: features of the same photos seen in different ways, each of shape (images, features), maybe on disk; a
            photo counts once, however many views there are.
        labels: the photos' classes, shape (images,).
        classes: how many there are.
        strength: inverse strength of the penalty, as scikit-learn's `C`.
        start: a probe to begin from, which saves steps.
    """
    from scipy.optimize import minimize
    from scipy.special import log_softmax
    from threadpoolctl import threadpool_limits

    mean, scale = spread_of(views)
    shape = (classes, len(mean) + 1)
    begin = np.zeros(shape)
    if start is not None:
        begin = np.column_stack([start.weight * scale, start.bias + start.weight @ mean])

    def loss_and_slope(flat: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        """Return the mean loss with the penalty, and its slope; standardising is done to the weights."""
        weight, bias = np.split(flat.reshape(shape), [-1], axis=1)
        probe = _unscaled(weight, bias[:, 0], mean, scale)
        loss, slope, sums = 0.0, np.zeros_like(weight), np.zeros(classes)
        for first, block in _blocks(views):
            answers, rows = labels[first : first + len(block)], np.arange(len(block))
            logged = log_softmax(probe.logits(block), axis=1)
            loss -= float(logged[rows, answers].sum(dtype=np.float64))
            error = np.exp(logged)
            error[rows, answers] -= 1
            slope += error.T @ block
            sums += error.sum(axis=0, dtype=np.float64)
        slope = (slope - np.outer(sums, mean)) / scale
        count = len(labels) * len(views)
        penalty = 1 / (strength * len(labels))
        loss = loss / count + 0.5 * penalty * float(np.square(weight).sum())
        return loss, np.column_stack([slope / count + penalty * weight, sums / count]).ravel()

    options = {"maxiter": MOST_STEPS, "ftol": LEAST_GAIN, "gtol": LEAST_SLOPE}
    with threadpool_limits(1 if views[0].size < SMALL else None):
        found = minimize(loss_and_slope, begin.ravel(), jac=True, method="L-BFGS-B", options=options)
    weight, bias = np.split(found.x.reshape(shape), [-1], axis=1)
    return _unscaled(weight, bias[:, 0], mean, scale)


def choose_strength(views: Sequence[FloatArray], labels: IntArray, classes: int, seed: int) -> float:
    """Return the strongest penalty whose loss on photos that a probe has not seen, over 5 stratified folds, is the
    least but for noise: the rule of one standard error (Breiman et al. 1984), photo by photo.

    Args:
        views: as `fit_probe` takes them.
        labels: shape (images,).
        classes: how many there are.
        seed: draws the photos, where there are many, and shuffles the folds.
    """
    views, labels = sampled(views, labels, seed)
    losses = np.zeros((len(STRENGTHS), len(labels)))
    for train, test in folds(labels, seed):
        probe = None
        for row, strength in enumerate(STRENGTHS):
            probe = fit_probe([view[train] for view in views], labels[train], classes, strength, probe)
            losses[row, test] = _losses(probe.logits(views[0][test]), labels[test])
    if not losses.any():
        return USUAL
    more = losses - losses[losses.mean(axis=1).argmin()]
    noise = more.std(axis=1) / np.sqrt(len(labels))
    return STRENGTHS[int(np.argmax(more.mean(axis=1) <= noise))]


def cross_validated(features: FloatArray, labels: IntArray, mirrored: FloatArray | None = None, seed: int = 0) -> float:
    """Return the accuracy, in [0, 1], of linear probes over 5 stratified folds.

    Args:
        features: shape (images, features).
        labels: shape (images,); each class needs at least 2 images.
        mirrored: features of the same photos turned left to right: the probes are then asked about these.
        seed: shuffles the folds.
    """
    asked = features if mirrored is None else mirrored
    predicted = np.empty_like(labels)
    for train, test in folds(labels, seed):
        probe = fit_probe([features[train]], labels[train], int(labels.max()) + 1, USUAL)
        predicted[test] = probe.logits(asked[test]).argmax(axis=1)
    return accuracy(predicted, labels)


def folds(labels: IntArray, seed: int) -> Iterator[tuple[IntArray, IntArray]]:
    """Yield, 5 times, the photos to train on and those to ask, each class in the same shares; a photo that is the only
    one of its class is never asked.

    Args:
        labels: shape (images,).
        seed: shuffles.
    """
    from sklearn.model_selection import StratifiedKFold

    counts = np.bincount(labels)
    asked, alone = np.flatnonzero(counts[labels] > 1), np.flatnonzero(counts[labels] == 1)
    if not len(asked):
        return
    parts = StratifiedKFold(min(FOLDS, counts.max()), shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # A class of fewer photos than folds has some in each training part all the same.
        warnings.simplefilter("ignore", UserWarning)
        for train, test in parts.split(asked, labels[asked]):
            yield np.concatenate([asked[train], alone]), asked[test]


def sampled(views: Sequence[FloatArray], labels: IntArray, seed: int) -> tuple[list[FloatArray], IntArray]:
    """Return at most 5,000 of the photos, in memory: their views and labels."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(labels))[:CHOSEN_ON])
    return [np.asarray(view[chosen]) for view in views], labels[chosen]


def spread_of(views: Sequence[FloatArray]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the mean of each feature and what it is divided by, shape (features,) both."""
    total, squares = (np.zeros(views[0].shape[1]) for _ in range(2))
    for _, block in _blocks(views):
        total += block.sum(axis=0, dtype=np.float64)
        squares += np.einsum("ij,ij->j", block, block, dtype=np.float64)
    count = sum(len(view) for view in views)
    mean = total / count
    variance = np.maximum(squares / count - mean**2, 0.0)
    return mean, np.maximum(np.sqrt(variance), LEAST_SPREAD * np.sqrt(variance.mean()) + 1e-6)


def _losses(logits: FloatArray, labels: IntArray) -> FloatArray:
    """Return each photo's cross-entropy, shape (images,)."""
    from scipy.special import log_softmax

    losses: FloatArray = -log_softmax(logits, axis=1)[np.arange(len(labels)), labels]
    return losses


def _unscaled(
    weight: npt.NDArray[np.float64],
    bias: npt.NDArray[np.float64],
    mean: npt.NDArray[np.float64],
    scale: npt.NDArray[np.float64],
) -> Linear:
    """Return the probe on features as they are that does what this one does on standardised ones."""
    weight = weight / scale
    return Linear(weight=weight.astype(np.float32), bias=(bias - weight @ mean).astype(np.float32))


def _blocks(views: Sequence[FloatArray]) -> Iterator[tuple[int, FloatArray]]:
    """Yield the views block by block, each with the number of its first photo."""
    for view in views:
        for start in range(0, len(view), BLOCK):
            yield start, np.asarray(view[start : start + BLOCK])
