"""Where training runs, and how images get there."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch

from edgetl.errors import MissingError, SettingsError
from edgetl.records import ImageArray, Preprocess

__all__ = ["as_input", "autocast", "normalise", "pick_device"]


def pick_device(name: str) -> torch.device:
    """Return the device that "auto", "cpu" or "cuda" stands for; auto takes CUDA where it is.

    Raises:
        SettingsError: another name.
        MissingError: CUDA is asked for and not here.
    """
    if name not in {"auto", "cpu", "cuda"}:
        raise SettingsError(f"device is {name!r}, but it must be auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise MissingError(
            f"device cuda was asked for, but torch {torch.__version__} sees no CUDA device here. "
            "Use --device cpu or auto"
        )
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """Return mixed precision on CUDA (bfloat16 where the GPU has it, else float16); nothing on a CPU."""
    if device.type != "cuda":
        return nullcontext()
    return torch.autocast("cuda", torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16)


def as_input(images: ImageArray, how: Preprocess, device: torch.device) -> torch.Tensor:
    """Return images of shape (images, height, width, 3) as the backbone's normalised input on the device."""
    pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
    if device.type == "cuda":
        pixels = pixels.pin_memory()
    return normalise(pixels.to(device, non_blocking=True), how)


def normalise(pixels: torch.Tensor, how: Preprocess) -> torch.Tensor:
    """Return uint8 pixels of shape (images, 3, height, width) as float32, mean removed and scaled, channels last."""
    mean, std = (torch.tensor(v, dtype=torch.float32, device=pixels.device).view(3, 1, 1) for v in (how.mean, how.std))
    return pixels.float().sub_(mean).div_(std).contiguous(memory_format=torch.channels_last)
