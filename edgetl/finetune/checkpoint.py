"""Where fine-tuning stands after an epoch, kept so that a run that was stopped goes on as if it had not been."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from edgetl.bundle import atomic_folder, write_file
from edgetl.errors import SettingsError
from edgetl.options import TuneSettings
from edgetl.outcomes import History
from edgetl.records import Record

__all__ = ["Checkpoint", "State", "load_checkpoint", "remove_checkpoint", "save_checkpoint", "settings_of"]

State = Mapping[str, torch.Tensor]


class _Said(Record):
    """What a checkpoint says of itself."""

    settings: TuneSettings
    history: History


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """Where fine-tuning stands: what its epochs came to, the network's state now and in its best epoch, and all else
    that the next step depends on (optimizer, schedule, averaged weights, random numbers)."""

    history: History
    now: State
    best: State
    rest: dict[str, Any]


def save_checkpoint(folder: Path, settings: TuneSettings, checkpoint: Checkpoint) -> None:
    """Write a checkpoint to `folder`, in one step; it takes the place of the one before.

    Raises:
        MissingError: the disk is full; the one before is still there.
    """
    with atomic_folder(folder) as partial:
        for name, state in (("now", checkpoint.now), ("best", checkpoint.best)):
            save_file(
                {key: tensor.cpu().contiguous() for key, tensor in state.items()}, partial / f"{name}.safetensors"
            )
        torch.save(checkpoint.rest, partial / "rest.pt")
        said = _Said(settings=settings, history=checkpoint.history)
        write_file(partial / "checkpoint.json", said.model_dump_json(indent=2) + "\n")


def load_checkpoint(folder: Path, settings: TuneSettings) -> Checkpoint | None:
    """Return the checkpoint in `folder`; None where there is none, or it is damaged.

    Raises:
        SettingsError: it is of a run with other settings.
    """
    try:
        said = _Said.model_validate_json((folder / "checkpoint.json").read_bytes())
        now, best = (load_file(folder / f"{name}.safetensors") for name in ("now", "best"))
        rest = torch.load(folder / "rest.pt", weights_only=True)
    except (OSError, ValidationError, SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError):
        return None
    if said.settings != settings:
        changed = [
            name for name in type(settings).model_fields if getattr(settings, name) != getattr(said.settings, name)
        ]
        raise SettingsError(
            f"{folder}: is a checkpoint of other settings ({', '.join(changed)}). Fine-tune with those that it was "
            "begun with, or remove it"
        )
    return Checkpoint(history=said.history, now=now, best=best, rest=rest)


def settings_of(folder: Path) -> TuneSettings | None:
    """Return the settings that the checkpoint in `folder` was begun with; None where there is none."""
    try:
        return _Said.model_validate_json((folder / "checkpoint.json").read_bytes()).settings
    except (OSError, ValidationError):
        return None


def remove_checkpoint(folder: Path) -> None:
    """Remove a checkpoint, if there is one: what it was for is done."""
    shutil.rmtree(folder, ignore_errors=True)
