"""Says where edgetl keeps what it can make again: caches, never results."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder() -> Path:
    """Return the cache folder, which may not exist yet.

    `EDGETL_CACHE`, else `edgetl` under `XDG_CACHE_HOME`, else `~/.cache/edgetl`. The environment is read at each call.
    A relative `XDG_CACHE_HOME` is ignored, as the XDG base directory specification demands.
    """
    own = os.environ.get("EDGETL_CACHE", "")
    if own:
        return Path(own).expanduser().absolute()
    shared = os.environ.get("XDG_CACHE_HOME", "")
    if shared and Path(shared).is_absolute():
        return Path(shared) / "edgetl"
    return Path.home() / ".cache" / "edgetl"
