"""Tests of edgetl/recipe.py and of every shipped recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgetl.errors import RecipeError
from edgetl.recipe import CalibrationRecipe, load_recipe, recipe_names

FOLDER = Path(__file__).parents[1] / "calibration"
RECIPE = """\
schema = 1
name = "mine"
description = "Ten photos"
method = "minmax"
images = 10
select = "random"
seed = 3
"""


def load(folder: Path, text: str) -> CalibrationRecipe:
    (folder / "mine.toml").write_text(text)
    return load_recipe(str(folder / "mine.toml"))


def test_every_file_in_the_folder_is_a_recipe() -> None:
    assert recipe_names() == tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))
    assert {"minmax", "entropy", "percentile"} <= set(recipe_names())


@pytest.mark.parametrize("name", recipe_names())
def test_a_shipped_recipe_loads_under_the_name_of_its_file(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description


def test_a_file_of_the_users_is_read(tmp_path: Path) -> None:
    recipe = load(tmp_path, RECIPE)
    assert (recipe.method, recipe.images, recipe.select, recipe.seed) == ("minmax", 10, "random", 3)


def test_what_a_recipe_leaves_out_has_the_usual_value(tmp_path: Path) -> None:
    recipe = load(tmp_path, RECIPE.replace('select = "random"\nseed = 3\n', ""))
    assert (recipe.select, recipe.seed, recipe.per_channel, recipe.reduce_range) == ("balanced", 0, True, False)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    message = r"unknown recipe 'minmaxx'\. Did you mean .*minmax.*\? A file of your own works too: \./my-recipe\.toml"
    with pytest.raises(RecipeError, match=message):
        load_recipe("minmaxx")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"gone\.toml: no such file"):
        load_recipe(str(tmp_path / "gone.toml"))


def test_what_is_not_toml_is_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"mine\.toml: not TOML"):
        load(tmp_path, "schema: 1")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("select", "selct", r"unknown key 'selct'\. Did you mean select"),
        (
            '"minmax"',
            '"mse"',
            r"method: Input should be 'minmax', 'moving-average', 'entropy', 'percentile' or 'nncf', found 'mse'",
        ),
        ("images = 10", "images = 0", r"images: Input should be greater than or equal to 1, found 0"),
        ("images = 10", "images = 100001", r"images: Input should be less than or equal to 100000, found 100001"),
        ("images = 10", 'images = "all"', r"images: Input should be a valid integer.*, found 'all'"),
        ("images = 10\n", "", r"images is missing"),
        ("seed = 3", "transformer = true", r'transformer is set, but method is "minmax": only NNCF has that'),
        ('"minmax"', '"nncf"\nreduce_range = true', r'reduce_range is set, but method is "nncf": NNCF chooses that'),
        ('"minmax"', '"nncf"\nequalize = true', r'equalize is set, but method is "nncf": NNCF chooses that'),
        ('"random"', '"first"', r"select: Input should be 'balanced', 'diverse' or 'random', found 'first'"),
        ("schema = 1", "schema = 2", r"schema: Input should be 1, found 2"),
        ('"mine"', '"Mine"', r"name: String should match pattern .*, found 'Mine'"),
    ],
)
def test_a_recipe_that_says_something_impossible_is_refused(
    before: str, after: str, message: str, tmp_path: Path
) -> None:
    assert before in RECIPE
    with pytest.raises(RecipeError, match=rf"mine\.toml: {message}"):
        load(tmp_path, RECIPE.replace(before, after))
