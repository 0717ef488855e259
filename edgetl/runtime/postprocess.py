"""Turns logits into answers: one function a task."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgetl.records import FloatArray, Score

__all__ = ["TASKS", "classify", "softmax"]


def softmax(logits: FloatArray) -> FloatArray:
    """Return probabilities along the last axis, same shape as the logits."""
    raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: FloatArray = raised / raised.sum(axis=-1, keepdims=True)
    return probabilities


def classify(logits: FloatArray, labels: tuple[str, ...], top: int) -> tuple[Score, ...]:
    """Return the `top` most likely labels of one image, most likely first; logits have shape (classes,)."""
    scores = softmax(logits)
    order = np.argsort(-scores, kind="stable")[:top]
    return tuple(Score(label=labels[index], score=float(scores[index])) for index in order)


# manifest.task -> the function that answers for one image.
TASKS: dict[str, Callable[[FloatArray, tuple[str, ...], int], tuple[Score, ...]]] = {"classification": classify}
