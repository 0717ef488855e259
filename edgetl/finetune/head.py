"""Heads: what is put on a backbone's features. One function a task; classification is a linear layer."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from edgetl.metrics import accuracy
from edgetl.records import FloatArray, IntArray

__all__ = ["Classifier", "LinearHead", "cross_validated", "fit_head"]

# A feature that hardly varies is not blown up to the size of the others, as plain standardising would: it would get a
# weight hundreds of times theirs, which multiplies INT8's rounding (seen: 92 % in float, 29 % in INT8).
LEAST_SPREAD = 0.3
# Inverse regularisation strengths that are tried, on standardised features.
STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearHead:
    """Logits = features @ weight.T + bias; weight has shape (classes, features), bias (classes,)."""

    weight: FloatArray
    bias: FloatArray
    strength: float

    def logits(self, features: FloatArray) -> FloatArray:
        """Return logits of shape (images, classes) for features of shape (images, features)."""
        return np.asarray(features @ self.weight.T + self.bias, dtype=np.float32)


class Classifier(nn.Module):
    """A backbone with a head: normalised photos of shape (images, 3, side, side) to logits (images, classes)."""

    def __init__(self, backbone: nn.Module, head: LinearHead) -> None:
        super().__init__()
        classes, features = head.weight.shape
        self.backbone = backbone
        self.head = nn.Linear(features, classes)
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(head.weight))
            self.head.bias.copy_(torch.from_numpy(head.bias))

    def forward(self, photos: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        logits: torch.Tensor = self.head(self.backbone(photos))
        return logits


def fit_head(features: FloatArray, labels: IntArray, held_features: FloatArray, held_labels: IntArray) -> LinearHead:
    """Return the logistic regression on the features whose strength answers best on held-out photos.

    Ties go to the stronger regularisation. Features are standardised for the fit; the head takes them as they are.

    Args:
        features: of the training photos, shape (images, features).
        labels: their classes, shape (images,).
        held_features: of the photos that choose the strength.
        held_labels: their classes.
    """
    heads = [_fit(features, labels, strength) for strength in STRENGTHS]
    return max(heads, key=lambda head: accuracy(head.logits(held_features).argmax(axis=1), held_labels))


def cross_validated(features: FloatArray, labels: IntArray, mirrored: FloatArray | None = None, seed: int = 0) -> float:
    """Return the accuracy, in [0, 1], of linear probes over 5 stratified folds.

    Args:
        features: shape (images, features).
        labels: shape (images,); each class needs at least 2 images.
        mirrored: features of the same photos turned left to right: the probes are then asked about these.
        seed: shuffles the folds.
    """
    from sklearn.model_selection import StratifiedKFold

    labels = np.unique(labels, return_inverse=True)[1]  # a class without photos has no row in a probe
    folds = min(5, int(np.bincount(labels).min()))
    asked = features if mirrored is None else mirrored
    predicted = np.empty_like(labels)
    for train, test in StratifiedKFold(folds, shuffle=True, random_state=seed).split(features, labels):
        predicted[test] = _fit(features[train], labels[train], strength=0.01).logits(asked[test]).argmax(axis=1)
    return accuracy(predicted, labels)


def _fit(features: FloatArray, labels: IntArray, strength: float) -> LinearHead:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    mean, spread = features.mean(axis=0), features.std(axis=0)
    scale = np.maximum(spread, LEAST_SPREAD * np.sqrt(np.mean(spread**2)) + 1e-6)
    solver = LogisticRegression(C=strength, max_iter=500)
    # These matrices are small: one thread is several times faster than two that wait for each other.
    with threadpool_limits(1), warnings.catch_warnings():
        # Stopping early is regularisation too; the held-out photos judge the result.
        warnings.simplefilter("ignore", ConvergenceWarning)
        solver.fit((features - mean) / scale, labels)
    weight, bias = solver.coef_, solver.intercept_
    if len(weight) == 1:  # two classes: one row stands for both
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weight = weight / scale
    return LinearHead(
        weight=np.ascontiguousarray(weight, dtype=np.float32),
        bias=(bias - weight @ mean).astype(np.float32),
        strength=strength,
    )
