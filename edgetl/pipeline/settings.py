"""What a user asks of a build: the flags of `edgetl build`, or the keys of a `build.toml` with the same names."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from edgetl.errors import SettingsError
from edgetl.options import TuneOptions
from edgetl.profiles import explain, read_toml_table
from edgetl.records import Channels, HeadKind, LogKind, Precision, Triple

__all__ = ["BuildSettings", "read_builds", "read_settings"]

# What is asked of training, and what is said of a network that was trained elsewhere.
TRAINING = ("backbone", "weights", "head", "views", "lr", *TuneOptions.model_fields, "log", "qat")
FOREIGN = ("labels", "mean", "std", "channels", "crop_share")


class BuildSettings(TuneOptions):
    """Everything a build depends on, beside the photos and the weights themselves."""

    data: str = Field(min_length=1, description="folder of photos, or `digits`")
    backbone: str = "edgetl/nano"
    target: str = "cpu"
    out: Path
    weights: str | None = Field(default=None, description="file, or `random`; else the backbone's own")
    head: Literal["auto", HeadKind] = "auto"
    views: int = Field(
        default=0, ge=0, le=64, description="of each photo, changed at random, that the head learns from"
    )
    lr: Literal["auto"] | float | None = Field(
        default=None, description="of the backbone; the head's is fivefold; `auto` looks for one"
    )
    image_size: int | None = Field(default=None, ge=16, le=2048, description="the photo's side in pixels")
    fit: Literal["auto", "crop", "squash", "pad"] = "auto"
    recipe: str | None = Field(default=None, description="the only one to try; else those of the target")
    precision: Precision | None = Field(default=None, description="ships whatever it costs; else the target chooses")
    budget: float | None = Field(
        default=None, ge=0, le=100, allow_inf_nan=False, description="points that may be lost; else the target's"
    )
    strict_budget: bool = Field(default=False, description="the worse end of the drop's interval must be inside too")
    from_onnx: str | None = Field(
        default=None, description="a float classifier trained elsewhere, in place of training"
    )
    labels: str | None = Field(default=None, description="its classes, a line each, in the order of its outputs")
    mean: Triple | None = Field(default=None, description="that it takes from pixel/255, a number a channel")
    std: Triple | None = Field(default=None, description="that it divides by then")
    channels: Channels | None = Field(default=None, description="in which order it reads them")
    crop_share: float | None = Field(default=None, gt=0, le=1, description="of the short side that `crop` keeps")
    qat: int = Field(
        default=0, ge=0, le=1000, description="epochs of quantization-aware training, where INT8 loses too much"
    )
    seed: int = Field(default=0, ge=0, lt=2**31)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    golden: int = Field(default=8, ge=0, le=10_000, description="photos kept in the bundle for `edgetl verify`")
    skip_bad: bool = False
    log: LogKind = Field(default="none", description="what is told each epoch, beside the screen")

    @field_validator("lr", mode="plain")
    @classmethod
    def _rate(cls, value: Any) -> Any:
        """Take a number, in a string too, `auto`, or nothing."""
        if value is None or value == "auto":
            return value
        try:
            rate = float(value)
        except (TypeError, ValueError):
            rate = 0.0
        if not 0 < rate <= 1:
            raise ValueError(f"must be above 0 and at most 1, or auto, found {value!r}")
        return rate

    @field_validator("mean", "std", mode="before")
    @classmethod
    def _part(cls, value: Any) -> Any:
        """Take "0.485,0.456,0.406" for three numbers."""
        parts = value.split(",") if isinstance(value, str) else value
        if isinstance(parts, list | tuple) and len(parts) != 3:
            raise ValueError(f"must be three numbers, one a channel, such as 0.485,0.456,0.406, found {value!r}")
        return parts

    @model_validator(mode="after")
    def _check_origin(self) -> BuildSettings:
        """Refuse what belongs to training beside a network that was trained elsewhere, and the other way round."""
        elsewhere = self.from_onnx is not None
        for key in TRAINING if elsewhere else FOREIGN:
            if key in self.model_fields_set:
                flag = f"--{key.replace('_', '-')}"
                raise SettingsError(
                    f"{flag} says how a network is trained, but --from-onnx {self.from_onnx} was trained elsewhere. "
                    f"Leave {flag} away"
                    if elsewhere
                    else f"{flag} says how a network that was trained elsewhere wants its photos. Say --from-onnx FILE "
                    "with it"
                )
        if self.crop_share is not None and self.fit not in {"auto", "crop"}:
            raise SettingsError(f"--crop-share says how much `crop` keeps, but --fit is {self.fit}. Leave one away")
        return self


def read_settings(config: Path | None, flags: dict[str, Any]) -> BuildSettings:
    """Return the settings from a TOML file and from flags; a flag that is not None wins.

    Raises:
        SettingsError: no such file, an unknown key (the nearest is named), a value out of range, or one missing.
    """
    return _settings(_said(config, flags), config, flags)


def read_builds(config: Path | None, flags: dict[str, Any]) -> list[BuildSettings]:
    """Return one build a target, where `target` is a list; the bundles of several lie in `out` under their names.

    Raises:
        SettingsError: as `read_settings`, or a target that is named twice.
    """
    said = _said(config, flags)
    targets = said.get("target")
    if not isinstance(targets, list | tuple):
        return [_settings(said, config, flags)]
    names = [str(Path(str(each)).stem if str(each).endswith(".toml") else each) for each in targets]
    if not targets or len(set(names)) != len(names):
        raise SettingsError(f"--target must name each target once, found {', '.join(names) or 'none'}")
    if len(targets) == 1:
        return [_settings({**said, "target": targets[0]}, config, flags)]
    shared = [_settings({**said, "target": each}, config, flags) for each in targets]
    return [one.model_copy(update={"out": one.out / name}) for one, name in zip(shared, names, strict=True)]


def _said(config: Path | None, flags: dict[str, Any]) -> dict[str, Any]:
    said = read_toml_table(config, SettingsError) if config else {}
    return {**said, **{key: value for key, value in flags.items() if value is not None}}


def _settings(said: dict[str, Any], config: Path | None, flags: dict[str, Any]) -> BuildSettings:
    try:
        return BuildSettings.model_validate(said)
    except ValidationError as invalid:
        problem = explain(invalid, BuildSettings)
        key = problem.partition(":")[0].partition(".")[0]
        field = BuildSettings.model_fields.get(key)
        if problem.endswith(" is missing"):
            problem = f"--{problem}: say it as a flag or in a --config file"
        elif field is not None and (config is None or flags.get(key) is not None):
            unit = f" ({field.description})" if field.description else ""
            raise SettingsError(f"--{key.replace('_', '-')}{problem.removeprefix(key)}{unit}") from invalid
        raise SettingsError(f"{f'{config}: ' if config else ''}{problem}") from invalid
