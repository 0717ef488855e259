"""Tests of edgetl/data/rows.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgetl.data import write_rows

ROWS = np.random.default_rng(0).integers(0, 256, (10, 4, 3)).astype(np.uint8)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize(
    "layout", [np.ascontiguousarray, np.asfortranarray, lambda rows: rows[:, ::-1].copy()[:, ::-1]]
)
def test_rows_are_kept_in_order_however_they_lie_in_memory(
    dtype: str, layout: Callable[[Any], Any], tmp_path: Path
) -> None:
    parts = [layout(ROWS[:4]), layout(ROWS[4:8]), layout(ROWS[8:])]
    kept = write_rows(tmp_path / "rows.npy", iter(parts), ROWS.shape, dtype)
    assert kept.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(kept, ROWS)
    np.testing.assert_array_equal(np.load(tmp_path / "rows.npy"), ROWS)


def test_no_row_gives_an_empty_array(tmp_path: Path) -> None:
    assert write_rows(tmp_path / "rows.npy", [], (0, 3), np.float32).shape == (0, 3)


@pytest.mark.parametrize("said", [9, 11])
def test_more_or_fewer_rows_than_said_are_an_error(said: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"10 rows came, {said} were said"):
        write_rows(tmp_path / "rows.npy", [ROWS], (said, 4, 3), np.uint8)


def test_rows_of_another_shape_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"rows of shape \(4, 3\) came, \(3, 4\) was said"):
        write_rows(tmp_path / "rows.npy", [ROWS], (10, 3, 4), np.uint8)
