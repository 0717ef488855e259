"""The frozen records that travel from room to room."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

__all__ = [
    "Border",
    "Channels",
    "Device",
    "Execution",
    "Fit",
    "FloatArray",
    "HeadKind",
    "ImageArray",
    "IntArray",
    "Latency",
    "LogKind",
    "ModelContent",
    "Precision",
    "Prediction",
    "Preprocess",
    "Progress",
    "Quiet",
    "Record",
    "Score",
    "SpeedUp",
    "TensorSpec",
    "TimeSplit",
    "Triple",
    "Unfreeze",
]

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
ImageArray = npt.NDArray[np.uint8]

Fit = Literal["crop", "squash", "pad"]
# What is computed in integers, then what the rest is in; a rest of fp32 goes unsaid.
Precision = Literal["fp32", "fp16", "bf16", "int8", "int8+fp16"]
# A colour has three numbers, in the order of channels that a network reads.
Channels = Literal["rgb", "bgr"]
Number = Annotated[float, Field(allow_inf_nan=False)]
Triple = tuple[Number, Number, Number]
Device = Literal["cpu", "gpu", "npu", "cuda"]
# What is put on a backbone's features: softmax regression, a hidden layer before it, or a mean direction a class.
HeadKind = Literal["linear", "mlp", "prototype"]
# What is told each epoch of fine-tuning, beside the screen.
LogKind = Literal["none", "tensorboard", "mlflow"]
Item = TypeVar("Item")


def _check_unfreeze(value: str) -> str:
    if not re.fullmatch(r"all|gradual|last:[1-9][0-9]{0,3}", value):
        raise ValueError(f"must be all, gradual, or last:N for the last N blocks, found {value!r}")
    return value


# Which blocks of a network learn in fine-tuning: all at once, one after another from the last on, or the last so many.
Unfreeze = Annotated[str, AfterValidator(_check_unfreeze)]


class Record(BaseModel):
    """What is saved to disk: frozen, and refusing unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TensorSpec(Record):
    """A tensor at a graph's border; -1 in the shape stands for a free dimension."""

    name: str
    dtype: Literal["uint8", "float32"]
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelContent:
    """What an engine loads: a graph, and its weights where the engine keeps them in a file of their own."""

    graph: bytes
    weights: bytes | None = None


class Border(Record):
    """Pixels of the mean colour around the photo, in place of the first convolution's zero padding."""

    top: int = Field(default=0, ge=0)
    left: int = Field(default=0, ge=0)
    bottom: int = Field(default=0, ge=0)
    right: int = Field(default=0, ge=0)


class Execution(Record):
    """How an engine is to run an artifact."""

    device: Device = "cpu"
    threads: int = Field(default=0, ge=0, le=1024, description="0 leaves the choice to the engine")
    hint: Literal["latency", "throughput"] = "latency"
    batch_sizes: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field(
        default=(1,), min_length=1, description="images that come at once, the usual number first"
    )
    workspace_bytes: int | None = Field(default=None, gt=0, description="most memory that building a plan may use")

    @property
    def batch_profile(self) -> tuple[int, int, int]:
        """The smallest, the usual and the largest batch size."""
        return min(self.batch_sizes), self.batch_sizes[0], max(self.batch_sizes)


Byte = Annotated[int, Field(ge=0, le=255)]


class Preprocess(Record):
    """How a photo becomes the uint8 image that the network reads.

    `side` is the square that the photo is fitted to, in pixels; `border` is painted around it. `mean` and `std`
    are of 255; the graph in a bundle has them folded into its weights, so the device uses `mean` only as the colour of
    the border and of padding. `crop` keeps the central square, `crop_share` of the photo's short side.
    """

    side: int = Field(ge=8, le=4096)
    fit: Fit
    crop_share: float = Field(default=1.0, gt=0.0, le=1.0)
    mean: tuple[Byte, Byte, Byte]
    std: tuple[float, float, float]
    border: Border = Border()

    @model_validator(mode="after")
    def _check(self) -> Preprocess:
        if not all(0 < value < 1e6 for value in self.std):
            raise ValueError(f"std must be positive and finite, found {self.std}")
        return self

    @property
    def height(self) -> int:
        """Image height with the border, in pixels."""
        return self.side + self.border.top + self.border.bottom

    @property
    def width(self) -> int:
        """Image width with the border, in pixels."""
        return self.side + self.border.left + self.border.right


class Latency(Record):
    """Milliseconds from call to answer: percentiles, and every sample they come from.

    A percentile for which too few samples were taken (MLPerf-style minimum counts: 64 for p90, 662 for p99)
    is None.
    """

    p50_ms: float
    p90_ms: float | None
    p99_ms: float | None
    mean_ms: float
    count: int
    samples_ms: tuple[float, ...]


class SpeedUp(Record):
    """How many times faster one thing is than another that it was timed in turn with, and the 95 % interval of that."""

    ratio: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """One label with its probability in [0, 1]."""

    label: str
    score: float


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeSplit:
    """Where the time of one prediction went, in milliseconds."""

    decode_ms: float
    preprocess_ms: float
    inference_ms: float
    postprocess_ms: float

    @property
    def total_ms(self) -> float:
        """Sum of the parts, in milliseconds."""
        return self.decode_ms + self.preprocess_ms + self.inference_ms + self.postprocess_ms


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """The answer for one image: labels from most to least likely."""

    scores: tuple[Score, ...]
    time: TimeSplit

    @property
    def label(self) -> str:
        """The most likely label."""
        return self.scores[0].label

    @property
    def score(self) -> float:
        """Probability of the most likely label, in [0, 1]."""
        return self.scores[0].score


class Progress(Protocol):
    """How a long stage tells the user where it is."""

    def count(self, what: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """Give a function to call with the number of things just done, of `total`; shows how many and how fast."""

    def track(self, items: Iterable[Item], what: str, total: int) -> Iterator[Item]:
        """Yield the items, counting them."""

    def say(self, line: str) -> None:
        """Show one line."""


class Quiet:
    """A Progress that shows nothing."""

    def count(self, what: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """Give a function that counts nothing."""
        return nullcontext(lambda done: None)

    def track(self, items: Iterable[Item], what: str, total: int) -> Iterator[Item]:
        """Yield the items."""
        return iter(items)

    def say(self, line: str) -> None:
        """Drop the line."""
