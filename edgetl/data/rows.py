"""Writes an array to disk row by row, for what need not fit into memory."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import DTypeLike

__all__ = ["write_rows"]


def write_rows(
    path: Path, batches: Iterable[np.ndarray[Any, Any]], shape: tuple[int, ...], dtype: DTypeLike
) -> np.ndarray[Any, Any]:
    """Return the memory-mapped array at `path` (npy), after writing its rows as they come.

    A full disk is thus an error that the system reports rather than a crash of the mapping.

    Args:
        path: the file that is written.
        batches: of shape (rows, *shape[1:]), which give `shape[0]` rows together.
        shape: of the whole array.
        dtype: of the whole array; the batches are cast to it.

    Raises:
        ValueError: the rows are of another shape, or more or fewer than `shape[0]`.
    """
    written = 0
    with path.open("wb") as file:
        header = npy.header_data_from_array_1_0(np.empty((0, *shape[1:]), dtype=dtype))
        npy.write_array_header_1_0(file, {**header, "shape": shape})
        for rows in batches:
            if rows.shape[1:] != shape[1:]:
                raise ValueError(f"{path}: rows of shape {rows.shape[1:]} came, {shape[1:]} was said")
            file.write(rows.astype(dtype, copy=False).tobytes())
            written += len(rows)
    if written != shape[0]:
        raise ValueError(f"{path}: {written} rows came, {shape[0]} were said")
    mapped: np.ndarray[Any, Any] = np.load(path, mmap_mode="r")
    return mapped
