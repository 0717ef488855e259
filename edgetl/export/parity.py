"""The ladder from the trained network to what a device runs: each rung's answers are held against those below."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgetl.bundle import Parity, Rung
from edgetl.errors import ParityError
from edgetl.metrics import Drop
from edgetl.records import FloatArray

__all__ = ["MAX_RELATIVE_ERROR", "check_engine", "check_rung", "measure_parity"]

MAX_RELATIVE_ERROR = 1e-3
# Engines round the integers of one graph in ways of their own. Where fewer answers agree, or where right ones are lost
# that are lost by chance with less than this probability, they compute something else.
LEAST_AGREEMENT, CHANCE = 0.9, 0.05
# Logits that are all zero are divided by this.
LEAST = 1e-12


def measure_parity(reference: FloatArray, found: FloatArray, limit: float = MAX_RELATIVE_ERROR) -> Parity:
    """Return how far the logits `found` are from the `reference`; both have shape (images, classes).

    The error is relative to the largest reference logit. A top-1 that differs only between classes whose reference
    logits are closer than twice the limit is a near-tie and counts as agreement.

    Raises:
        ParityError: shapes differ, or a logit is not finite.
    """
    if reference.shape != found.shape:
        raise ParityError(f"the artifact gives logits of shape {found.shape}, the trained network {reference.shape}")
    if not np.isfinite(found).all():
        raise ParityError("the artifact gives logits that are not finite")
    largest = float(np.abs(reference).max())
    errors = np.abs(reference - found) / max(largest, LEAST)
    lost = reference.max(axis=1) - np.take_along_axis(reference, found.argmax(axis=1)[:, None], axis=1)[:, 0]
    same = lost <= 2 * limit * largest
    return Parity(
        max_relative_error=float(errors.max()),
        mean_relative_error=float(errors.mean()),
        cosine=float(_cosines(reference, found).min()),
        top1_agreement=float(same.mean()),
        near_ties=int(np.sum(same & (reference.argmax(axis=1) != found.argmax(axis=1)))),
        images=len(reference),
    )


def _cosines(first: FloatArray, second: FloatArray) -> FloatArray:
    """Return the cosine of each image's two rows of logits, shape (images,); 1 where both are zero."""
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    cosines: FloatArray = np.where(
        (first == second).all(axis=1), 1.0, np.sum(first * second, axis=1) / np.maximum(lengths, LEAST)
    )
    return cosines


def check_rung(rung: Rung, limit: float = MAX_RELATIVE_ERROR, find_layer: Callable[[], str] | None = None) -> Rung:
    """Return a float rung that computes what it is held against.

    Args:
        rung: as measured.
        limit: largest relative error.
        find_layer: finds the first layer that differs, where the rung fails.

    Raises:
        ParityError: the relative error is above the limit, or a top-1 differs.
    """
    parity = rung.parity
    if not parity.max_relative_error <= limit or parity.top1_agreement < 1.0:
        raise _parted(
            rung,
            f"relative error {parity.max_relative_error:.2g} (at most {limit:g}), top-1 agreement "
            f"{100 * parity.top1_agreement:.1f} % (must be 100 %)",
            find_layer,
        )
    return rung


def check_engine(rung: Rung, limit: float, drop: Drop, find_layer: Callable[[], str] | None = None) -> Rung:
    """Return a rung on which an engine runs a quantized graph as ONNX defines it, but for rounding.

    Args:
        rung: the engine's answers, held against those of the graph as ONNX defines it.
        limit: largest mean of the relative errors.
        drop: what the engine's answers lose against these, on labelled images.
        find_layer: finds the first layer that differs, where the rung fails.

    Raises:
        ParityError: logits or answers part by more than rounding and chance explain.
    """
    error, agreed = rung.parity.mean_relative_error, rung.parity.top1_agreement
    lost = drop.points > 0 and drop.p_value < CHANCE
    if not error <= limit or agreed < LEAST_AGREEMENT or lost:
        raise _parted(
            rung,
            f"mean relative error {error:.2g} (at most {limit:g}), top-1 agreement {100 * agreed:.1f} % (at least "
            f"{100 * LEAST_AGREEMENT:g} %), {drop.points:.1f} points of accuracy lost (by chance with a probability of "
            f"{drop.p_value:.2g})",
            find_layer,
        )
    return rung


def _parted(rung: Rung, how_far: str, find_layer: Callable[[], str] | None) -> ParityError:
    where = ""
    if find_layer is not None:
        try:
            where = f". It parts at {find_layer()}"
        except Exception as error:  # the answers have parted, whatever hinders the search
            where = f". Where it parts could not be found: {error}"
    return ParityError(
        f"rung {rung.name!r}: {rung.answered_by} computes something else than {rung.against}: {how_far} on "
        f"{rung.parity.images} images{where}. No bundle was written"
    )
