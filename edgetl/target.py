"""What a device can do and the budget it must meet, read from `targets/*.toml`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from edgetl.errors import TargetError
from edgetl.profiles import load_named, profile_names
from edgetl.records import Precision, Record

__all__ = [
    "ENGINE_EXTRAS",
    "ENGINE_PRECISIONS",
    "Budget",
    "EngineProfile",
    "TargetProfile",
    "load_target",
    "target_names",
]

# What each engine builds here today.
ENGINE_PRECISIONS: dict[str, tuple[Precision, ...]] = {
    "onnxruntime": ("int8", "fp32"),
    "openvino": ("int8", "fp32"),
}
# Which extra of edgetl installs each engine, whose module has the engine's name.
ENGINE_EXTRAS = {"onnxruntime": "ort", "openvino": "openvino"}


class EngineProfile(Record):
    """Which engine runs the artifact, and how."""

    name: Literal["onnxruntime", "openvino"]
    precisions: tuple[Precision, ...] = Field(min_length=1, description="in order of preference")
    threads: int = Field(default=0, ge=0, le=1024, description="0 leaves the choice to the engine")

    @model_validator(mode="after")
    def _check(self) -> EngineProfile:
        offered = ENGINE_PRECISIONS[self.name]
        for precision in self.precisions:
            if precision not in offered:
                raise ValueError(f'precisions holds "{precision}", but {self.name} here builds {" or ".join(offered)}')
        return self


class Budget(Record):
    """What the shipped artifact must keep to; None means no bound."""

    accuracy_drop_points: float = Field(ge=0, le=100, description="percentage points lost to quantization")
    latency_ms_p50: float | None = Field(default=None, gt=0)
    size_bytes: int | None = Field(default=None, gt=0)


class TargetProfile(Record):
    """One device, as its TOML describes it."""

    schema_: Literal[1] = Field(alias="schema")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    description: str
    engine: EngineProfile
    budget: Budget


def target_names() -> tuple[str, ...]:
    """Return the names of the targets that come with edgetl, sorted."""
    return profile_names("edgetl._targets")


def load_target(name: str) -> TargetProfile:
    """Return a target by its name, or by the path of a TOML file (`./my-target.toml`).

    Raises:
        TargetError: unknown name (the nearest are named), no such file, or a file that says something impossible.
    """
    return load_named("edgetl._targets", name, TargetProfile, TargetError)
