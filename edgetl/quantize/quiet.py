"""Keeps what the quantization tools say of themselves from the user."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

__all__ = ["quiet_tools"]


@contextmanager
def quiet_tools() -> Iterator[None]:
    """Silence the tools' progress, their advice on pre-processing (the graph arrives preprocessed), and their regret
    that there is no GPU; what edgetl must know of, they raise."""
    level: Any = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(level)
