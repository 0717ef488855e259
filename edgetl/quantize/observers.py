"""Watch activations batch by batch and say which range each needs: in memory that does not grow with the photos."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from onnxruntime.quantization.calibrate import HistogramCollector

from edgetl.errors import CalibrationError
from edgetl.outcomes import Ranges
from edgetl.quantize.quiet import quiet_tools
from edgetl.recipe import CalibrationRecipe
from edgetl.records import FloatArray

__all__ = ["Extremes", "Histogram", "Histograms", "Observer", "observer_of"]

# The smallest and the largest value, shape (2,).
Extreme = npt.NDArray[np.float64]

# Bins of a histogram: a multiple of four, since two become one where its reach doubles.
BINS = 2048
# Below it, float32 cannot tell bins apart.
LEAST_REACH = 2.0**-100
# Share, in percent, of the values that `percentile` keeps; ONNX Runtime's own choice.
PERCENTILE = 99.999
# Share of the values that a range holds at the least: where none lies near zero, ONNX Runtime's search for the least
# entropy may end at once, with nearly all of them outside.
LEAST_HELD = 0.5
# Of these many neighbouring bins `entropy` makes one, and so many levels it tries to tell apart: its search takes as
# long as the cube of their number.
MERGED, LEVELS = 4, 128


class Observer(Protocol):
    """Looks at one batch after the other.

    `reduced` says whether it wants only the smallest and largest value of each tensor: (2,) in place of the tensor.
    """

    reduced: bool

    def observe(self, values: Mapping[str, FloatArray]) -> None:
        """Look at some images' activations, by the tensors' names."""

    def end_batch(self) -> None:
        """Take note that a batch of images is complete."""

    def ranges(self) -> Ranges:
        """Return the range of each tensor that was seen."""


def observer_of(recipe: CalibrationRecipe) -> Observer:
    """Return the observer of a recipe's method, which has seen nothing; NNCF finds ranges of its own, and what is
    observed beside serves to rank layers."""
    if recipe.method in {"minmax", "moving-average", "nncf"}:
        return Extremes(averaged=recipe.method == "moving-average")
    return Histograms(recipe.method)


class Extremes:
    """Keeps the smallest and the largest value of each tensor: of all batches, or averaged over them."""

    reduced = True

    def __init__(self, averaged: bool) -> None:
        """Watch; `averaged` takes the mean of the batches' ranges in place of what holds them all."""
        self._averaged = averaged
        self._batch: dict[str, Extreme] = {}
        self._sums: dict[str, Extreme] = {}
        self._batches = 0

    def observe(self, values: Mapping[str, FloatArray]) -> None:
        """Look at extremes, shape (2,) each."""
        for name, value in values.items():
            self._batch[name] = _widen(self._batch.get(name, value.astype(np.float64)), value)

    def end_batch(self) -> None:
        """Add the batch's ranges to those before."""
        self._batches += 1
        for name, value in self._batch.items():
            so_far = self._sums.get(name)
            if so_far is None:
                self._sums[name] = value
            else:
                self._sums[name] = so_far + value if self._averaged else _widen(so_far, value)
        self._batch = {}

    def ranges(self) -> Ranges:
        """Return the ranges."""
        divisor = self._batches if self._averaged else 1
        return {name: (float(low) / divisor, float(high) / divisor) for name, (low, high) in self._sums.items()}


def _widen(first: Extreme, second: Extreme | FloatArray) -> Extreme:
    return np.array([min(first[0], second[0]), max(first[1], second[1])], dtype=np.float64)


class Histogram:
    """How often values of one tensor fell into each of `BINS` bins from -reach to reach, and the extremes."""

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, dtype=np.int64)
        self.low, self.high, self.reach = np.inf, -np.inf, 0.0

    @property
    def edges(self) -> FloatArray:
        """The bins' limits, rising, shape (BINS + 1,)."""
        return np.linspace(-self.reach, self.reach, BINS + 1, dtype=np.float32)

    def add(self, values: FloatArray) -> None:
        """Count values of any shape; where they reach further, the reach doubles and bins merge until it holds them."""
        tensor = torch.from_numpy(values)
        low, high = (float(each) for each in torch.aminmax(tensor))
        largest = max(-low, high)
        if self.reach == 0.0 and largest > 0.0:
            # A power of two, so that bins nest, and neither order nor size of the batches matters. Only zeros have
            # come before, and they lie in the first bin above the middle.
            self.reach = 2.0 ** math.ceil(math.log2(max(largest, LEAST_REACH)))
        while largest > self.reach:
            pairs = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.pad(pairs, BINS // 4)
            self.reach *= 2
        if self.reach == 0.0:
            self.counts[BINS // 2] += values.size
        else:
            # Two to three times as fast as the histograms of numpy and torch.
            bins = ((tensor + self.reach) * (BINS / (2 * self.reach))).to(torch.int32).clamp_(max=BINS - 1)
            self.counts += torch.bincount(bins.flatten(), minlength=BINS).numpy()
        self.low, self.high = min(self.low, low), max(self.high, high)

    def widened(self, low: float, high: float) -> tuple[float, float]:
        """Return a range, that of the extremes where it holds too few of the values."""
        inside = (self.edges[1:] > low) & (self.edges[:-1] < high)
        held = self.counts[inside].sum() >= LEAST_HELD * self.counts.sum()
        return (low, high) if held else (self.low, self.high)


class Histograms:
    """Keeps a histogram of each tensor, and finds ranges by ONNX Runtime's methods `percentile` and `entropy`."""

    reduced = False

    def __init__(self, method: str) -> None:
        """Watch; `method` is "percentile" or "entropy"."""
        self._method = method
        self._histograms: dict[str, Histogram] = {}

    def observe(self, values: Mapping[str, FloatArray]) -> None:
        """Look at whole tensors.

        Raises:
            CalibrationError: a value is not finite.
        """
        for name, value in values.items():
            if not np.isfinite(value).all():
                raise CalibrationError(f"the network's activations {name} have no range: some are not finite")
            self._histograms.setdefault(name, Histogram()).add(value)

    def end_batch(self) -> None:
        """Nothing: batches count alike."""

    def ranges(self) -> Ranges:
        """Return the ranges that the method chooses; what was always zero has none to choose."""
        found = dict.fromkeys(self._histograms, (0.0, 0.0))
        collector = HistogramCollector(
            method=self._method, symmetric=False, num_bins=BINS, num_quantized_bins=LEVELS, percentile=PERCENTILE,
            scenario="same",
        )  # fmt: skip
        merged = MERGED if self._method == "entropy" else 1
        collector.histogram_dict = {
            name: (each.counts.reshape(-1, merged).sum(axis=1), each.edges[::merged],
                   *np.array([each.low, each.high, each.reach], dtype=np.float32))
            for name, each in self._histograms.items()
            if each.reach > 0.0
        }  # fmt: skip
        if collector.histogram_dict:
            with quiet_tools():
                chosen = collector.compute_collection_result()
            found |= {
                name: self._histograms[name].widened(float(both[0]), float(both[1])) for name, both in chosen.items()
            }
        return found
