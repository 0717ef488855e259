"""What a device can do and the budget it must meet, read from `targets/*.toml`."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator

from edgetl.errors import TargetError
from edgetl.profiles import load_named, profile_names
from edgetl.records import Device, Execution, Precision, Record

__all__ = [
    "ENGINE_KINDS",
    "FIRST_L4T",
    "REFUSED",
    "Budget",
    "DeviceProfile",
    "EngineKind",
    "EngineProfile",
    "TargetProfile",
    "load_target",
    "target_names",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineKind:
    """What an engine builds here and runs on: the extra that installs it on a device, and what a build for it needs."""

    extra: str
    build_module: str
    build_extra: str
    precisions: tuple[Precision, ...]
    devices: tuple[Device, ...]


ENGINE_KINDS: dict[str, EngineKind] = {
    "onnxruntime": EngineKind(
        extra="ort",
        build_module="onnxruntime",
        build_extra="ort",
        precisions=("int8", "fp16", "fp32"),
        devices=("cpu", "cuda"),
    ),
    "openvino": EngineKind(
        extra="openvino",
        build_module="openvino",
        build_extra="openvino",
        precisions=("int8", "bf16", "fp16", "fp32"),
        devices=("cpu", "gpu", "npu"),
    ),
    "tensorrt": EngineKind(
        extra="tensorrt",
        build_module="modelopt",
        build_extra="train",
        precisions=("int8+fp16", "int8", "fp16"),
        devices=("cuda",),
    ),
}
_OLD = "strongly typed networks need TensorRT 10, which comes with JetPack 6.1 and newer"
# Devices that are asked for by name and cannot be served -> why.
REFUSED = {
    "jetson-nano": f"the Jetson Nano ends at JetPack 4.6 with TensorRT 8.2: {_OLD}",
    "jetson-tx1": f"the Jetson TX1 ends at JetPack 4.6 with TensorRT 8.2: {_OLD}",
    "jetson-tx2": f"the Jetson TX2 ends at JetPack 4.6 with TensorRT 8.2: {_OLD}",
    "jetson-xavier": f"the Jetson Xavier ends at JetPack 5.1 with TensorRT 8.5: {_OLD}",
    "jetson-xavier-nx": f"the Jetson Xavier NX ends at JetPack 5.1 with TensorRT 8.5: {_OLD}",
    "jetson-agx-xavier": f"the Jetson AGX Xavier ends at JetPack 5.1 with TensorRT 8.5: {_OLD}",
}
FIRST_JETPACK, FIRST_L4T = (6, 1), (36, 4)


class EngineProfile(Execution):
    """Which engine runs the artifact, and how."""

    name: Literal["onnxruntime", "openvino", "tensorrt"]
    precisions: tuple[Precision, ...] = Field(min_length=1, description="in order of preference")
    recipes: tuple[str, ...] = Field(
        default=("minmax", "percentile", "entropy"),
        min_length=1,
        description="calibration recipes to try, each where the ones before lose too much",
    )

    @model_validator(mode="after")
    def _check(self) -> EngineProfile:
        kind = ENGINE_KINDS[self.name]
        for precision in self.precisions:
            if precision not in kind.precisions:
                raise ValueError(
                    f'precisions holds "{precision}", but {self.name} here builds {_listed(kind.precisions)}'
                )
        twice = [each for each in self.precisions if self.precisions.count(each) > 1]
        if twice:
            raise ValueError(f'precisions holds "{twice[0]}" twice; each is tried once')
        if self.device not in kind.devices:
            raise ValueError(f'device is "{self.device}", but {self.name} here runs on {_listed(kind.devices)}')
        if "bf16" in self.precisions and self.device != "cpu":
            raise ValueError(
                f'precisions holds "bf16", which is for CPUs, but device is "{self.device}": fp16 is its own'
            )
        return self

    @property
    def execution(self) -> Execution:
        """How the engine is to run, without its name."""
        return Execution.model_validate(self.model_dump(include=set(Execution.model_fields)))


class DeviceProfile(Record):
    """The machine itself: what it is, and what must be installed there."""

    architecture: Literal["any", "x86_64", "aarch64"] = "any"
    memory_mb: int | None = Field(default=None, gt=0)
    boards: tuple[str, ...] = Field(default=(), description="words of /proc/device-tree/model that tell it")
    vendor: Literal["any", "intel", "nvidia"] = Field(default="any", description="whose processor the engine runs on")
    requires: tuple[str, ...] = Field(default=(), description="`name>=version` each: a library, python or l4t")

    @model_validator(mode="after")
    def _check(self) -> DeviceProfile:
        for requirement in self.requires:
            if not re.fullmatch(r"[a-z][a-z0-9_-]*>=\d+(\.\d+)*", requirement):
                raise ValueError(f'requires holds "{requirement}", but each must be like "onnxruntime>=1.20"')
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
    aliases: tuple[str, ...] = Field(default=(), description="other names of the same device")
    description: str
    source: str = Field(default="not said", description="where these figures come from")
    engine: EngineProfile
    device: DeviceProfile = DeviceProfile()
    budget: Budget


def target_names() -> tuple[str, ...]:
    """Return the names of the targets that come with edgetl and of the user's own, sorted."""
    return profile_names("edgetl._targets")


def load_target(name: str) -> TargetProfile:
    """Return a target by its name or alias, or by the path of a TOML file (`./my-target.toml`).

    A file of the user's own in `~/.config/edgetl/targets/` goes before one of the same name that comes with edgetl.

    Raises:
        TargetError: unknown name (the nearest are named), a device that cannot be served (the reason is said), no such
            file, or a file that says something impossible.
    """
    if name in target_names() or name.endswith(".toml"):
        return load_named("edgetl._targets", name, TargetProfile, TargetError)
    _refuse(name)
    aliases = _aliases()
    return load_named("edgetl._targets", aliases.get(name, name), TargetProfile, TargetError, tuple(aliases))


def _refuse(name: str) -> None:
    jetpack = re.fullmatch(r"jetpack-?(\d+)(?:\.(\d+))?.*", name)
    if name in REFUSED:
        raise TargetError(f"{name} is not supported: {REFUSED[name]}. Newer boards: --target jetson (Orin Nano)")
    if jetpack and (int(jetpack[1]), int(jetpack[2] or 0)) < FIRST_JETPACK:
        raise TargetError(f"{name} is not supported: {_OLD}. Update the board, then: --target jetson (Orin Nano)")


def _aliases() -> dict[str, str]:
    """Return other name -> name; a file of the user's that cannot be read has none."""
    found = {}
    for name in target_names():
        with suppress(TargetError):
            profile = load_named("edgetl._targets", name, TargetProfile, TargetError)
            found.update(dict.fromkeys(profile.aliases, name))
    return found


def _listed(words: tuple[str, ...]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
