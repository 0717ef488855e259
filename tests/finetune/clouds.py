"""Features that are easy to make: normal clouds."""

from __future__ import annotations

import numpy as np

from edgetl.records import FloatArray, IntArray


def clouds(classes: int, each: int, seed: int, apart: float = 1.0) -> tuple[FloatArray, IntArray]:
    """Return features of shape (classes * each, 16): one normal cloud a class, and the classes."""
    centres = np.random.default_rng(0).normal(0, apart, (classes, 16))
    labels = np.repeat(np.arange(classes), each)
    return (centres[labels] + np.random.default_rng(seed).normal(size=(len(labels), 16))).astype(np.float32), labels
