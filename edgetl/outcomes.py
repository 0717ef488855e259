"""What training and quantizing came to: the records that their rooms leave, and a bundle's report repeats."""

from __future__ import annotations

from edgetl.metrics import Drop
from edgetl.records import Fit, Precision, Record, SpeedUp

__all__ = ["Epoch", "History", "Ranges", "Statistics", "Verdict", "ViewChoice"]

# The smallest and the largest value of a tensor that its quantized form shall hold, by the tensor's name.
Ranges = dict[str, tuple[float, float]]


class ViewChoice(Record):
    """The fit, and whether training mirrors photos, with the probes' accuracies in [0, 1] that decided."""

    fit: Fit
    mirror: bool
    fit_accuracy: dict[Fit, float]
    mirrored_accuracy: float | None


class Epoch(Record):
    """What one epoch came to; epoch 0 is the state before training."""

    epoch: int
    train_loss: float | None
    held_out_loss: float
    held_out_accuracy: float
    seconds: float


class History(Record):
    """Every epoch, and the one whose state is kept."""

    epochs: tuple[Epoch, ...]
    best: int


class Statistics(Record):
    """What calibration saw of each activation, by its name: the range that its quantized form shall hold and, of what
    convolutions over planes read, the mean of each channel."""

    ranges: Ranges
    means: dict[str, tuple[float, ...]]


class Verdict(Record):
    """Which precision ships, and why, in one sentence; what so few photos cannot tell, in another, empty where they are
    enough; which were refused because they lose more than the budget; what it loses against float on the held-out
    photos, and how much faster it is, None where that was not measured."""

    precision: Precision
    reason: str
    remark: str
    outside: tuple[Precision, ...]
    drop: Drop
    speed_up: SpeedUp | None
