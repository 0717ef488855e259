"""Reads weights from a file without running any of its code, and fits them to a network."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from edgetl.errors import BackboneError

__all__ = ["fit_weights", "read_weights"]

SHOWN_KEYS = 4
COUNTS = "num_batches_tracked"


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Return the float32 tensors of a state dict by name.

    Args:
        path: `.safetensors`, or `.pth`/`.pt` read with `weights_only=True`.

    Raises:
        BackboneError: another format, a damaged file, or one that wants to run code.
    """
    state: Any
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        elif path.suffix in {".pth", ".pt"}:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # on pickles of other protocols, which are read or refused all the same
                state = torch.load(path, map_location="cpu", weights_only=True)
        else:
            raise BackboneError(f"{path}: weights are read from .safetensors, .pth or .pt files")
    except BackboneError:
        raise
    except pickle.UnpicklingError as error:
        raise BackboneError(
            f"{path}: is damaged, or holds more than names and tensors, which is not read because it could run code. "
            "Save the state dict alone: torch.save(model.state_dict(), path)"
        ) from error
    except Exception as error:  # torch's unpickler raises many unrelated classes on junk, some without a text
        reason = (str(error).strip().splitlines() or [""])[0]
        raise BackboneError(f"{path}: cannot be read as weights: {type(error).__name__}: {reason}") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        raise BackboneError(f"{path}: holds no state dict (names and tensors)")
    return {name: t.float() if t.is_floating_point() else t for name, t in state.items()}


def fit_weights(network: nn.Module, state: dict[str, torch.Tensor], optional: str, where: str) -> None:
    """Load a state dict into a network; all must fit but the layer named `optional`, whose own may differ.

    Raises:
        BackboneError: names or shapes differ (the first are named), or a value is not finite.
    """
    own = network.state_dict()
    spare = {f"{optional}.weight", f"{optional}.bias"}
    # Counts of batches matter to nobody: older files lack them, and they would only crowd the names that tell.
    missing = [key for key in own if key not in state and key not in spare and not key.endswith(COUNTS)]
    unknown = [key for key in state if key not in own and key not in spare and not key.endswith(COUNTS)]
    shapes = [
        f"{key} is {tuple(state[key].shape)}, wanted {tuple(own[key].shape)}"
        for key in own
        if key in state and key not in spare and state[key].shape != own[key].shape
    ]
    found = [
        f"{what}: {', '.join(keys[:SHOWN_KEYS])}" + (f" and {len(keys) - SHOWN_KEYS} more" if keys[SHOWN_KEYS:] else "")
        for what, keys in (("missing", missing), ("unknown", unknown), ("other shapes", shapes))
        if keys
    ]
    if found:
        raise BackboneError(f"{where}: these weights are of another network. {'; '.join(found)}")
    broken = [key for key, tensor in state.items() if tensor.is_floating_point() and not torch.isfinite(tensor).all()]
    if broken:
        raise BackboneError(f"{where}: {broken[0]} holds values that are not finite")
    fitting = {key: tensor for key, tensor in state.items() if key in own and tensor.shape == own[key].shape}
    network.load_state_dict(fitting, strict=False)
