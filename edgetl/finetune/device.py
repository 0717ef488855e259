"""Where training runs, and how images get there."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch

from edgetl.errors import MissingError, SettingsError
from edgetl.options import Amp
from edgetl.records import ImageArray, Preprocess

__all__ = ["as_input", "autocast", "mixed_type", "normalise", "pick_device"]


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


def mixed_type(device: torch.device, amp: Amp = "auto") -> torch.dtype | None:
    """Return the type that mixed precision computes in, None for none; `auto` is bfloat16 on a GPU that has it, float16
    on another, and none on a CPU."""
    if amp == "auto":
        amp = "off" if device.type != "cuda" else "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    return {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[amp]


def autocast(device: torch.device, amp: Amp = "auto") -> AbstractContextManager[object]:
    """Return mixed precision as `mixed_type` says."""
    mixed = mixed_type(device, amp)
    return torch.autocast(device.type, mixed) if mixed else nullcontext()


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
