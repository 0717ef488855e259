"""Tests of edgetl/quantize/select.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest

from edgetl.data import Item
from edgetl.errors import CalibrationError
from edgetl.quantize import remarks_on, select_items
from edgetl.recipe import CalibrationRecipe, load_recipe
from edgetl.records import FloatArray

Way = Literal["balanced", "diverse", "random"]
WAYS: tuple[Way, ...] = ("balanced", "diverse", "random")


def recipe(**changed: Any) -> CalibrationRecipe:
    return load_recipe("minmax").model_copy(update=changed)


def items(**counts: int) -> tuple[Item, ...]:
    """Return so many training photos of each class: items(cat=3, dog=5)."""
    return tuple(
        Item(path=Path(label, f"{number}.jpg"), label=index, split="train", sha256=f"{index:032x}{number:032x}")
        for index, (label, count) in enumerate(counts.items())
        for number in range(count)
    )


def choose(photos: Sequence[Item], settings: CalibrationRecipe) -> tuple[Item, ...]:
    """Return the photos chosen, whose features are drawn from their content."""
    drawn = [np.random.default_rng(int(photo.sha256, 16)).normal(size=4) for photo in photos]
    return select_items(photos, settings, np.array(drawn, dtype=np.float32))


@pytest.mark.parametrize("way", WAYS)
class TestEveryWay:
    @pytest.mark.parametrize(("images", "expected"), [(1, 1), (10, 10), (30, 30), (31, 30), (1000, 30)])
    def test_as_many_as_asked_for_or_all_there_are(self, images: int, expected: int, way: Way) -> None:
        chosen = choose(items(cat=10, dog=20), recipe(select=way, images=images))
        assert len(chosen) == len(set(chosen)) == expected

    def test_the_order_they_come_in_does_not_matter(self, way: Way) -> None:
        photos = items(cat=10, dog=20)
        settings = recipe(select=way, images=7)
        assert choose(photos, settings) == choose(photos[::-1], settings)

    def test_another_name_of_the_file_does_not_matter(self, way: Way) -> None:
        photos = items(cat=10, dog=20)
        renamed = tuple(
            Item(path=Path("new", str(index)), label=item.label, split=item.split, sha256=item.sha256)
            for index, item in enumerate(photos)
        )
        settings = recipe(select=way, images=7)
        chosen = [item.sha256 for item in choose(photos, settings)]
        assert [item.sha256 for item in choose(renamed, settings)] == chosen

    def test_another_seed_takes_others(self, way: Way) -> None:
        photos = items(cat=50, dog=50)
        first, second = (set(choose(photos, recipe(select=way, images=20, seed=seed))) for seed in (0, 1))
        assert first != second

    @pytest.mark.parametrize("split", ["val", "test"])
    def test_a_photo_that_results_are_measured_on_is_refused(self, split: Literal["val", "test"], way: Way) -> None:
        foreign = Item(path=Path("cat/seen.jpg"), label=0, split=split, sha256="f" * 64)
        message = r"cat/seen\.jpg is not a training photo: calibration must not see what results are measured on"
        with pytest.raises(CalibrationError, match=message):
            choose((*items(cat=3), foreign), recipe(select=way))

    def test_no_photo_is_refused(self, way: Way) -> None:
        with pytest.raises(CalibrationError, match="there is no training photo to calibrate with"):
            choose((), recipe(select=way))


def test_balanced_takes_a_rare_class_as_often_as_a_common_one() -> None:
    chosen = select_items(items(rare=6, common=500), recipe(select="balanced", images=12))
    assert Counter(item.path.parts[0] for item in chosen) == {"rare": 6, "common": 6}


def test_random_takes_classes_as_they_come() -> None:
    chosen = select_items(items(rare=6, common=500), recipe(select="random", images=100))
    assert Counter(item.path.parts[0] for item in chosen)["common"] > 90


def test_diverse_takes_what_is_least_like_the_rest() -> None:
    photos = items(cat=50)
    features = np.zeros((50, 2), dtype=np.float32)
    features[:, 0] = np.linspace(0, 0.1, 50)
    features[7], features[31] = (5, 5), (-5, 5)
    chosen = select_items(photos, recipe(select="diverse", images=3), features)
    assert {photos[7], photos[31]} <= set(chosen)


def test_diverse_takes_photos_that_are_all_alike_too() -> None:
    chosen = select_items(items(cat=9), recipe(select="diverse", images=5), np.zeros((9, 2), dtype=np.float32))
    assert len(set(chosen)) == 5


@pytest.mark.parametrize("features", [None, np.zeros((4, 2), dtype=np.float32)])
def test_diverse_without_features_is_refused(features: FloatArray | None) -> None:
    with pytest.raises(CalibrationError, match="chosen by their features, and these are not there"):
        select_items(items(cat=3), recipe(select="diverse"), features)


class TestRemarks:
    LABELS: ClassVar = {0: "cat", 1: "dog"}

    def test_nothing_is_said_of_photos_that_will_do(self) -> None:
        chosen = select_items(items(cat=60, dog=60), recipe(images=100))
        assert remarks_on(chosen, recipe(images=100), self.LABELS) == ()

    def test_fewer_photos_than_the_recipe_asks_for_are_said(self) -> None:
        chosen = select_items(items(cat=60, dog=60), recipe(images=200))
        assert remarks_on(chosen, recipe(images=200), self.LABELS) == (
            "recipe minmax asks for 200 photos; all 120 are used",
        )

    def test_fewer_than_a_hundred_are_said(self) -> None:
        chosen = select_items(items(cat=60, dog=60), recipe(images=99))
        assert remarks_on(chosen, recipe(images=99), self.LABELS) == (
            "99 photos calibrate: with fewer than 100, ranges may miss what is rare",
        )

    def test_a_class_without_a_photo_is_named(self) -> None:
        chosen = select_items(items(cat=120), recipe(images=100))
        assert remarks_on(chosen, recipe(images=100), self.LABELS) == ("no photo of dog calibrates",)
