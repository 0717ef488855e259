"""Chooses the training photos that calibrate a quantized graph."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from edgetl.data import Item, balanced
from edgetl.errors import CalibrationError
from edgetl.recipe import CalibrationRecipe

__all__ = ["select_items"]


def select_items(items: Sequence[Item], recipe: CalibrationRecipe) -> tuple[Item, ...]:
    """Return the photos that calibrate, as many as the recipe asks for or all there are.

    "balanced" takes the classes in turn, so that a rare class calibrates as much as a common one; "random" takes photos
    as they come. Which photos depends on the recipe's seed and on their content alone.

    Raises:
        CalibrationError: there is no photo, or one that is not for training.
    """
    foreign = [item.path.as_posix() for item in items if item.split != "train"]
    if foreign:
        raise CalibrationError(
            f"{foreign[0]} is not a training photo: calibration must not see what results are measured on"
        )
    if not items:
        raise CalibrationError("there is no training photo to calibrate with")
    if recipe.select == "random":
        drawn = sorted(items, key=lambda item: hashlib.sha256(f"{recipe.seed} {item.sha256}".encode()).digest())
        return tuple(drawn[: recipe.images])
    return balanced(items, recipe.images, recipe.seed)
