"""Chooses the training photos that calibrate a quantized graph."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from edgetl.data import Item, balanced
from edgetl.errors import CalibrationError
from edgetl.recipe import CalibrationRecipe
from edgetl.records import FloatArray

__all__ = ["remarks_on", "select_items"]

# With fewer photos, a range may miss what is rare.
FEW = 100


def select_items(
    items: Sequence[Item], recipe: CalibrationRecipe, features: FloatArray | None = None
) -> tuple[Item, ...]:
    """Return the photos that calibrate, as many as the recipe asks for or all there are.

    "balanced" takes the classes in turn, so that a rare class calibrates as much as a common one; "random" takes photos
    as they come; "diverse" takes, again and again, the photo that is least like those taken (k-centre, Gonzalez 1985),
    by the features of the frozen backbone. Which photos depends on the recipe's seed and on their content alone.

    Args:
        items: training photos.
        recipe: how many, and how they are chosen.
        features: of the items in their order, shape (items, features); "diverse" needs them.

    Raises:
        CalibrationError: there is no photo, or one that is not for training, or "diverse" has no features.
    """
    foreign = [item.path.as_posix() for item in items if item.split != "train"]
    if foreign:
        raise CalibrationError(
            f"{foreign[0]} is not a training photo: calibration must not see what results are measured on"
        )
    if not items:
        raise CalibrationError("there is no training photo to calibrate with")
    if recipe.select == "balanced":
        return balanced(items, recipe.images, recipe.seed)
    drawn = sorted(range(len(items)), key=lambda row: _draw(items[row], recipe))
    if recipe.select == "diverse":
        if features is None or len(features) != len(items):
            raise CalibrationError("photos are chosen by their features, and these are not there")
        drawn = _spread(np.asarray(features[drawn]), drawn, recipe.images)
    return tuple(items[row] for row in drawn[: recipe.images])


def _draw(item: Item, recipe: CalibrationRecipe) -> bytes:
    return hashlib.sha256(f"{recipe.seed} {item.sha256}".encode()).digest()


def _spread(features: FloatArray, rows: Sequence[int], count: int) -> list[int]:
    """Return up to `count` of the rows: the first, then the one that is farthest from those taken, again and again.

    Args:
        features: of the rows in their order, shape (rows, features).
        rows: any numbers.
        count: how many are wanted.
    """
    chosen, far = [0], np.full(len(rows), np.inf)
    while len(chosen) < min(count, len(rows)):
        far = np.minimum(far, np.square(features - features[chosen[-1]]).sum(axis=1))
        far[chosen[-1]] = -1.0
        chosen.append(int(far.argmax()))
    return [rows[place] for place in chosen]


def remarks_on(chosen: Sequence[Item], recipe: CalibrationRecipe, classes: Mapping[int, str]) -> tuple[str, ...]:
    """Return, in words, what is amiss with the photos that calibrate; empty where nothing is.

    Args:
        chosen: the photos, as `select_items` gives them.
        recipe: what they were chosen by.
        classes: the labels of those that have photos, by their number.
    """
    remarks = []
    if len(chosen) < recipe.images:
        remarks.append(f"recipe {recipe.name} asks for {recipe.images} photos; all {len(chosen)} are used")
    if len(chosen) < FEW:
        remarks.append(f"{len(chosen)} photos calibrate: with fewer than {FEW}, ranges may miss what is rare")
    there = {item.label for item in chosen}
    missing = [label for number, label in classes.items() if number not in there]
    if missing:
        remarks.append(f"no photo of {', '.join(missing)} calibrates")
    return tuple(remarks)
