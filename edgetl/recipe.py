"""How an artifact is calibrated, read from `calibration/*.toml`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from edgetl.errors import RecipeError
from edgetl.profiles import load_named, profile_names
from edgetl.records import Record

__all__ = ["CalibrationRecipe", "load_recipe", "recipe_names"]


class CalibrationRecipe(Record):
    """One way to choose quantization ranges: which method, how many images, how chosen, which seed."""

    schema_: Literal[1] = Field(alias="schema")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    description: str
    method: Literal["minmax", "moving-average", "entropy", "percentile", "nncf"]
    images: int = Field(ge=1, le=100_000)
    select: Literal["balanced", "diverse", "random"] = "balanced"
    per_channel: bool = Field(default=True, description="one scale per output channel of a weight")
    reduce_range: bool = Field(
        default=False, description="weights that no sum of two products overflows by, on CPUs without VNNI"
    )
    bias_correction: bool = Field(default=False, description="mend the mean that rounded weights shift; NNCF: slowly")
    equalize: bool = Field(
        default=False, description="make the channels of an activation more alike, by the weights before and behind it"
    )
    preset: Literal["performance", "mixed"] = Field(
        default="mixed", description="of NNCF: activations symmetric, or not where they have both signs"
    )
    transformer: bool = Field(default=False, description="of NNCF: its scheme for transformers, SmoothQuant included")
    seed: int = 0

    @model_validator(mode="after")
    def _check(self) -> CalibrationRecipe:
        by_nncf = self.method == "nncf"
        for key in ("per_channel", "reduce_range", "equalize") if by_nncf else ("preset", "transformer"):
            if key in self.model_fields_set:
                whose = "NNCF chooses that itself" if by_nncf else "only NNCF has that"
                raise ValueError(f'{key} is set, but method is "{self.method}": {whose}')
        return self


def recipe_names() -> tuple[str, ...]:
    """Return the names of the recipes that come with edgetl, sorted."""
    return profile_names("edgetl._calibration")


def load_recipe(name: str) -> CalibrationRecipe:
    """Return a recipe by its name, or by the path of a TOML file (`./my-recipe.toml`).

    Raises:
        RecipeError: unknown name (the nearest are named), no such file, or a file that says something impossible.
    """
    return load_named("edgetl._calibration", name, CalibrationRecipe, RecipeError)
