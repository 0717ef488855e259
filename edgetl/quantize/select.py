"""Chooses the training photos that calibrate a quantized graph."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from edgetl.data import Item, balanced
from edgetl.errors import CalibrationError
from edgetl.recipe import CalibrationRecipe

__all__ = ["remarks_on", "select_items"]

# With fewer photos, a range may miss what is rare.
FEW = 100


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


def remarks_on(chosen: Sequence[Item], recipe: CalibrationRecipe, labels: Sequence[str]) -> tuple[str, ...]:
    """Return, in words, what is amiss with the photos that calibrate; empty where nothing is.

    Args:
        chosen: the photos, as `select_items` gives them.
        recipe: what they were chosen by.
        labels: of the classes.
    """
    remarks = []
    if len(chosen) < recipe.images:
        remarks.append(f"recipe {recipe.name} asks for {recipe.images} photos; all {len(chosen)} are used")
    if len(chosen) < FEW:
        remarks.append(f"{len(chosen)} photos calibrate: with fewer than {FEW}, ranges may miss what is rare")
    there = {item.label for item in chosen}
    missing = [label for number, label in enumerate(labels) if number not in there]
    if missing:
        remarks.append(f"no photo of {', '.join(missing)} calibrates")
    return tuple(remarks)
