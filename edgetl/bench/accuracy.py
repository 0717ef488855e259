"""Runs a whole set of images once through sessions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol, TypeVar

import numpy as np

from edgetl.records import FloatArray, ImageArray, Progress

__all__ = ["answer_all"]

Name = TypeVar("Name", bound=str)


class Answering(Protocol):
    """What gives logits for images, as a session does."""

    def run(self, images: ImageArray) -> FloatArray:
        """Return logits of shape (images, classes) for uint8 RGB images of shape (images, height, width, 3)."""


def answer_all(
    sessions: Mapping[Name, Answering], batches: Iterable[ImageArray], count: int, what: str, progress: Progress
) -> dict[Name, FloatArray]:
    """Return logits of shape (images, classes) of each of these by name, every image once, in order.

    Args:
        sessions: what answers; each batch goes through all of them, so that it is read once.
        batches: uint8 images of shape (images, height, width, 3).
        count: how many images will come.
        what: shown with the progress.
        progress: counts the images.
    """
    answers: dict[Name, list[FloatArray]] = {name: [] for name in sessions}
    with progress.count(what, count) as advance:
        for images in batches:
            for name, session in sessions.items():
                answers[name].append(session.run(images))
            advance(len(images))
    return {name: np.concatenate(each) for name, each in answers.items()}
