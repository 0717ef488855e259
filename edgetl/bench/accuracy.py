"""Runs a whole set of images once through a session."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from edgetl.records import FloatArray, ImageArray, Progress
from edgetl.runtime import Session

__all__ = ["answer_all"]


def answer_all(
    session: Session, batches: Iterable[ImageArray], count: int, what: str, progress: Progress
) -> FloatArray:
    """Return logits of shape (images, classes), every image once, in order.

    Args:
        session: the artifact on its engine.
        batches: uint8 images of shape (images, height, width, 3).
        count: how many images will come.
        what: shown with the progress.
        progress: counts the images.
    """
    answers = []
    with progress.count(what, count) as advance:
        for images in batches:
            answers.append(session.run(images))
            advance(len(images))
    return np.concatenate(answers)
