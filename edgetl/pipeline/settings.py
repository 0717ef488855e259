"""What a user asks of a build: the flags of `edgetl build`, or the keys of a `build.toml` with the same names."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from edgetl.errors import SettingsError
from edgetl.profiles import explain, read_toml_table
from edgetl.records import Record

__all__ = ["BuildSettings", "read_settings"]


class BuildSettings(Record):
    """Everything a build depends on, beside the photos and the weights themselves."""

    data: str = Field(min_length=1, description="folder of photos, or `digits`")
    backbone: str = "edgetl/nano"
    target: str = "cpu"
    out: Path
    weights: str | None = Field(default=None, description="file, or `random`; None for the backbone's own")
    epochs: int = Field(default=7, ge=0, le=10_000, description="0 stops after the frozen stage")
    lr: float | None = Field(
        default=None,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="of the backbone; the head's is fivefold",
    )
    image_size: int | None = Field(default=None, ge=16, le=2048, description="photo side in pixels")
    fit: Literal["auto", "crop", "squash", "pad"] = "auto"
    recipe: str = "minmax"
    seed: int = Field(default=0, ge=0, lt=2**31)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    golden: int = Field(default=8, ge=0, le=10_000, description="photos kept in the bundle for `edgetl verify`")
    skip_bad: bool = False


def read_settings(config: Path | None, flags: dict[str, Any]) -> BuildSettings:
    """Return the settings from a TOML file and from flags; a flag that is not None wins.

    Raises:
        SettingsError: no such file, an unknown key (the nearest is named), a value out of range, or one missing.
    """
    said = read_toml_table(config, SettingsError) if config else {}
    try:
        return BuildSettings.model_validate(
            {**said, **{key: value for key, value in flags.items() if value is not None}}
        )
    except ValidationError as invalid:
        where = f"{config}: " if config else ""
        problem = explain(invalid, BuildSettings)
        if problem.endswith(" is missing"):
            problem = f"--{problem}: say it as a flag or in a --config file"
        raise SettingsError(f"{where}{problem}") from invalid
