"""Writes small datasets for the tests of the data room."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

Write = Callable[..., Path]


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
