"""Says what this machine is, and which targets fit it: what a device must be, and what is missing on it."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from edgetl.bench.machine import describe_machine, versions_of
from edgetl.records import Record
from edgetl.runtime import board_model, describe_cuda, devices_of, jetson_linux
from edgetl.target import ENGINE_KINDS, FIRST_L4T, TargetProfile

__all__ = ["Detected", "Fit", "detect", "fit", "is_of_kind"]


class Detected(Record):
    """What this machine is."""

    cpu: str
    architecture: str
    cores: int
    memory_mb: int
    flags: tuple[str, ...]
    board: str | None
    jetson_linux: str | None
    gpu: str | None
    engines: dict[str, tuple[str, ...]]
    versions: dict[str, str]


class Fit(Record):
    """Whether a target is this machine, and what must be mended for its bundles to run here."""

    target: str
    fits: bool
    wrong: tuple[str, ...]
    missing: tuple[str, ...]


def detect(root: Path = Path("/")) -> Detected:
    """Return what this machine is, read below `root`."""
    machine = describe_machine(root / "proc/cpuinfo")
    return Detected(
        cpu=machine.cpu,
        architecture=machine.architecture,
        cores=os.cpu_count() or 1,
        memory_mb=_memory_mb(root / "proc/meminfo"),
        flags=machine.flags,
        board=board_model(root),
        jetson_linux=jetson_linux(root),
        gpu=describe_cuda(),
        engines={name: devices_of(name) for name in ENGINE_KINDS},
        versions={"python": platform.python_version(), **versions_of(ENGINE_KINDS)},
    )


def fit(target: TargetProfile, found: Detected) -> Fit:
    """Return how a target fits a machine.

    `wrong` holds what cannot be mended (another processor or board, too little memory), `missing` what can be added.
    """
    device, engine = target.device, target.engine
    wrong, missing = _of_another_kind(target, found.architecture, found.board), []
    # A machine of 8 GB tells of a little less.
    if device.memory_mb is not None and found.memory_mb < 0.8 * device.memory_mb:
        wrong.append(f"needs {device.memory_mb} MB of memory, this has {found.memory_mb} MB")
    if device.vendor == "nvidia" and found.gpu is None:
        wrong.append("needs an NVIDIA GPU, and none can be used here")
    if found.jetson_linux is not None and engine.name == "tensorrt" and _parts(found.jetson_linux) < FIRST_L4T:
        wrong.append(f"needs JetPack 6.1 (Jetson Linux 36.4), this is Jetson Linux {found.jetson_linux}")
    if engine.name not in found.engines or engine.device not in found.engines[engine.name]:
        missing.append(f"{engine.name} on {engine.device}")
    for requirement in device.requires:
        name, _, least = requirement.partition(">=")
        have = found.jetson_linux if name == "l4t" else _version_of(name, found.versions)
        if have is None or _parts(have) < _parts(least):
            missing.append(f"{name} {least} or newer ({have or 'none here'})")
    return Fit(target=target.name, fits=not wrong and not missing, wrong=tuple(wrong), missing=tuple(missing))


def _version_of(name: str, versions: dict[str, str]) -> str | None:
    """Return the version of a library; any distribution of ONNX Runtime will do for `onnxruntime`."""
    others = (version for each, version in versions.items() if name == "onnxruntime" and each.startswith(f"{name}-"))
    return versions.get(name) or next(others, None)


def is_of_kind(target: TargetProfile) -> bool:
    """Say whether this machine is of a target's kind, so that what is measured here holds there."""
    return not differences(target)


def differences(target: TargetProfile) -> tuple[str, ...]:
    """Return, in words, what tells this machine from a target's kind; nothing where it is of that kind."""
    return tuple(_of_another_kind(target, platform.machine(), board_model()))


def _of_another_kind(target: TargetProfile, architecture: str, board: str | None) -> list[str]:
    device, wrong = target.device, []
    if device.architecture not in {"any", architecture}:
        wrong.append(f"needs {device.architecture}, this is {architecture}")
    if device.boards and not any(each in (board or "") for each in device.boards):
        wrong.append(f"needs a {device.boards[0]}, this is {board or 'no such board'}")
    return wrong


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def _memory_mb(path: Path) -> int:
    found = re.search(r"MemTotal:\s+(\d+) kB", path.read_text()) if path.is_file() else None
    return int(found[1]) // 1024 if found else 0
