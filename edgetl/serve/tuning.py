"""How a model is answered on this machine: as typed, else as `edgetl serve --tune` found, else one photo a core."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field, ValidationError

from edgetl.bundle import Bundle, write_file
from edgetl.errors import SettingsError
from edgetl.folders import cache_folder
from edgetl.records import Record
from edgetl.serve.settings import ServeSettings

__all__ = ["Tuning", "choose", "cores", "keep_tuning", "kept_tuning"]

MOST = 256


class Tuning(Record):
    """How a model is answered; the fields are flags of `edgetl serve`."""

    workers: int = Field(ge=1, le=MOST)
    threads: int = Field(ge=0, le=256)
    batch: int = Field(ge=1, le=256)
    delay_ms: float = Field(ge=0, le=1000)


def cores() -> int:
    """Return how many cores this process may use, at most as many as a model has threads."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(found, MOST)


def choose(settings: ServeSettings, bundle: Bundle) -> Tuning:
    """Return how a bundle is answered with these settings here."""
    found = kept_tuning(bundle) or Tuning(workers=cores(), threads=1, batch=1, delay_ms=2.0)
    typed = {name: getattr(settings, name) for name in Tuning.model_fields}
    if typed["workers"] == 0:
        typed["workers"] = cores()
    return found.model_copy(update={name: value for name, value in typed.items() if value is not None})


def keep_tuning(bundle: Bundle, tuning: Tuning) -> Path:
    """Return the file that keeps what was found for a bundle, written.

    Raises:
        SettingsError: it cannot be written.
    """
    path = _path(bundle)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, tuning.model_dump_json(indent=2) + "\n")
    except OSError as error:
        reason = error.strerror or error
        raise SettingsError(f"{path}: cannot be written: {reason}. Set EDGETL_CACHE to another folder") from None
    return path


def kept_tuning(bundle: Bundle) -> Tuning | None:
    """Return what was found for a bundle on this machine; a file that is not there, or damaged, says nothing."""
    try:
        return Tuning.model_validate_json(_path(bundle).read_bytes())
    except (OSError, ValidationError):
        return None


def _path(bundle: Bundle) -> Path:
    return cache_folder() / "serve" / f"{bundle.manifest.build}-{cores()}.json"
