"""Writes small datasets for the tests of the data room."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

Write = Callable[..., Path]


class Lines:
    """A Progress that keeps what it was told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.tracked: list[tuple[str, int]] = []

    def track(self, items, what, total):  # type: ignore[no-untyped-def]
        self.tracked.append((what, total))
        return iter(items)

    def say(self, line: str) -> None:
        self.said.append(line)


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.fixture
def write() -> Write:
    """Return a function that writes so many photos, each another, to each folder: write(root, {"cat": 3})."""
    numbers = itertools.count()

    def photos(root: Path, folders: dict[str, int]) -> Path:
        for folder, count in folders.items():
            (root / folder).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                number = next(numbers)
                Image.new("RGB", (8, 8), (number % 256, number // 256, 7)).save(root / folder / f"{index}.png")
        return root

    return photos
