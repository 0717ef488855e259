"""Fixtures for all tests: the shared assets, and a cache folder that is not the user's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def assets() -> Path:
    """Return the folder of real photos (data/) and weights (weights/), or skip."""
    folder = Path(os.environ.get("EDGETL_ASSETS") or SHARED)
    if not folder.is_dir():
        pytest.skip(f"needs real photos and weights: no folder {folder}; name one with EDGETL_ASSETS")
    return folder


@pytest.fixture(scope="session")
def cache_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the cache folder that all tests of a run share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_cache(cache_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGETL_CACHE", str(cache_base))
