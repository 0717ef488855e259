"""Says what machine this is, so that a figure can be read later."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime, timezone
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

from edgetl.records import Record

__all__ = ["Machine", "describe_machine", "versions_of"]

# Instruction sets that decide how fast INT8 runs.
FLAGS = ("avx2", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm", "bf16", "sve")
# Implementer and part of ARM's cores, as its manuals number them: many machines give no other name.
ARM_CORES = {
    ("0x41", "0xd03"): "Cortex-A53", ("0x41", "0xd05"): "Cortex-A55", ("0x41", "0xd08"): "Cortex-A72",
    ("0x41", "0xd0b"): "Cortex-A76", ("0x41", "0xd0c"): "Neoverse-N1", ("0x41", "0xd40"): "Neoverse-V1",
    ("0x41", "0xd42"): "Cortex-A78AE", ("0x41", "0xd49"): "Neoverse-N2", ("0x41", "0xd4f"): "Neoverse-V2",
}  # fmt: skip
LIBRARIES = ("edgetl", "numpy", "Pillow", "onnxruntime", "openvino")
# Several distributions carry this module.
ONNXRUNTIME = "onnxruntime"


class Machine(Record):
    """The machine and the versions a measurement was taken with, and when that was (ISO 8601, UTC)."""

    cpu: str
    architecture: str
    cores: int
    flags: tuple[str, ...]
    system: str
    python: str
    load_1min: float
    date: str
    versions: dict[str, str]


def describe_machine(cpuinfo: Path = Path("/proc/cpuinfo")) -> Machine:
    """Return this machine, as /proc/cpuinfo and the installed distributions describe it."""
    lines = cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.is_file() else []
    pairs = [(key.strip().lower(), value.strip()) for key, _, value in (line.partition(":") for line in lines)]
    said = dict(reversed(pairs))
    flags = set(f"{said.get('flags', '')} {said.get('features', '')}".split())
    # ARM has no model name; there "model" is the board, and "hardware" an old kernel's family of chips.
    name = said.get("model name") or said.get("model") or said.get("hardware")
    core = ARM_CORES.get((said.get("cpu implementer", ""), said.get("cpu part", "")))
    return Machine(
        cpu=name or core or platform.processor() or "unknown",
        architecture=platform.machine(),
        cores=os.cpu_count() or 1,
        flags=tuple(flag for flag in FLAGS if flag in flags),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        load_1min=round(os.getloadavg()[0], 2),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        versions=versions_of(LIBRARIES),
    )


def versions_of(libraries: Iterable[str]) -> dict[str, str]:
    """Return the versions of those libraries that are installed; for onnxruntime, of whichever distribution has it."""
    found = {}
    for library in libraries:
        for name in _carriers_of_onnxruntime() if library == ONNXRUNTIME else (library,):
            with suppress(PackageNotFoundError):
                found[name] = version(name)
    return found


@cache  # looking through every file of every distribution takes a sixth of a second
def _carriers_of_onnxruntime() -> tuple[str, ...]:
    return tuple(sorted(set(packages_distributions().get(ONNXRUNTIME, []))))
