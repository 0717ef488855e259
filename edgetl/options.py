"""What a user may ask of fine-tuning, and how one run of it goes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgetl.records import Record, Unfreeze

__all__ = ["Amp", "Augment", "Schedule", "TuneOptions", "TuneSettings"]

Amp = Literal["auto", "off", "bf16", "fp16"]
Augment = Literal["none", "light", "trivial", "rand"]
Schedule = Literal["cosine", "one-cycle"]


class TuneOptions(Record):
    """What a user may ask of fine-tuning."""

    epochs: int = Field(default=7, ge=0, le=10_000, description="of fine-tuning; 0 stops after the frozen stage")
    batch: int = Field(default=16, ge=2, le=65_536, description="photos that go through the network at once")
    accumulate: int = Field(default=1, ge=1, le=4096, description="batches that make a step")
    unfreeze: Unfreeze = "all"
    layer_decay: float = Field(
        default=1.0, gt=0, le=1, allow_inf_nan=False, description="of a block's rate, of that of the one behind it"
    )
    schedule: Schedule = "cosine"
    augment: Augment = "light"
    mixup: float = Field(default=0.0, ge=0, le=10, description="alpha of Beta(alpha, alpha), 0 for none")
    cutmix: float = Field(default=0.0, ge=0, le=10, description="alpha of Beta(alpha, alpha), 0 for none")
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    balance: Literal["none", "loss", "sampler"] = "none"
    ema: float = Field(default=0.0, ge=0, lt=1, description="of the averaged weights that a step keeps, 0 for none")
    clip: float = Field(default=0.0, ge=0, le=1e6, description="largest norm of a step's gradients, 0 for any")
    patience: int = Field(default=5, ge=1, description="epochs without a better held-out answer before stopping")
    amp: Amp = "auto"
    compile: bool = Field(default=False, description="the network by torch.compile")


class TuneSettings(TuneOptions):
    """How one fine-tuning goes."""

    backbone_lr: float = Field(default=2e-4, gt=0, le=1, allow_inf_nan=False)
    head_lr: float = Field(default=1e-3, gt=0, le=1, allow_inf_nan=False)
    weight_decay: float = Field(default=0.02, ge=0, le=1)
    mirror: bool = Field(default=True, description="whether a mirrored photo is the same thing")
    seed: int = 0
