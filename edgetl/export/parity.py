"""Holds an artifact's answers against the trained network's, on real images."""

from __future__ import annotations

import numpy as np

from edgetl.bundle import Parity
from edgetl.errors import ParityError
from edgetl.records import FloatArray

__all__ = ["MAX_RELATIVE_ERROR", "check_parity", "measure_parity"]

MAX_RELATIVE_ERROR = 1e-3
# Logits that are all zero are divided by this.
LEAST = 1e-12


def measure_parity(reference: FloatArray, found: FloatArray) -> Parity:
    """Return how far the logits `found` are from the `reference`; both have shape (images, classes).

    The error is relative to the largest reference logit. A top-1 that differs only between classes whose reference
    logits are closer than twice the allowed error is a near-tie and counts as agreement.

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
    same = lost <= 2 * MAX_RELATIVE_ERROR * largest
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


def check_parity(parity: Parity, what: str, limit: float = MAX_RELATIVE_ERROR) -> None:
    """Return if a float artifact computes what the trained network computes.

    Raises:
        ParityError: the relative error is above the limit, or a top-1 differs.
    """
    if not parity.max_relative_error <= limit or parity.top1_agreement < 1.0:
        raise ParityError(
            f"{what} computes something else than the trained network: relative error {parity.max_relative_error:.2g} "
            f"(at most {limit:g}), top-1 agreement {100 * parity.top1_agreement:.1f} % (must be 100 %) on "
            f"{parity.images} images. No bundle was written"
        )
