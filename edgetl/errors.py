"""The errors edgetl raises, each with the exit code of its kind.

EdgetlError                 2  wrong use or input
├── SettingsError           2  a setting is unknown, out of range or contradicts another
├── DataError               2  photos or folders that cannot be used as they are
├── BackboneError           2  unknown backbone, or weights that do not fit it
├── GraphError              2  an ONNX file of the user's that cannot be built from
├── TargetError             2  unknown target, or one that says something impossible
├── RecipeError             2  unknown calibration recipe, or one that says something impossible
├── CalibrationError        2  calibration images that cannot calibrate
├── BundleError             2  a bundle that is damaged, unsafe or not a bundle
├── SessionError            2  a session was asked for what it cannot run
│   └── DeviceLostError     4  the device that a session runs on does not answer any more
├── TrainingError           3  training diverged
├── ExportError             3  the network cannot be exported
├── ParityError             3  an artifact computes something else than the trained network
├── BudgetError             3  the result misses the target's budget
└── MissingError            4  a library, engine, download, device or disk space is missing here
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "BackboneError",
    "BudgetError",
    "BundleError",
    "CalibrationError",
    "DataError",
    "DeviceLostError",
    "EdgetlError",
    "ExportError",
    "GraphError",
    "MissingError",
    "ParityError",
    "RecipeError",
    "SessionError",
    "SettingsError",
    "TargetError",
    "TrainingError",
    "first_line",
    "missing_library",
    "nearest",
]


class EdgetlError(Exception):
    """Says where, what was found, what is allowed and what to do next."""

    exit_code = 2


class SettingsError(EdgetlError):
    pass


class DataError(EdgetlError):
    pass


class BackboneError(EdgetlError):
    pass


class GraphError(EdgetlError):
    pass


class TargetError(EdgetlError):
    pass


class RecipeError(EdgetlError):
    pass


class CalibrationError(EdgetlError):
    pass


class BundleError(EdgetlError):
    pass


class SessionError(EdgetlError):
    pass


class DeviceLostError(SessionError):
    exit_code = 4


class TrainingError(EdgetlError):
    exit_code = 3


class ExportError(EdgetlError):
    exit_code = 3


class ParityError(EdgetlError):
    exit_code = 3


class BudgetError(EdgetlError):
    exit_code = 3


class MissingError(EdgetlError):
    exit_code = 4


def first_line(error: BaseException) -> str:
    """Return the first line of what another library's error says, its class where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def missing_library(library: str, extra: str, purpose: str) -> MissingError:
    """Return the error for a library that is not installed, with the exact pip command."""
    return MissingError(f"{library} is needed to {purpose} and is not installed. Run: pip install 'edgetl[{extra}]'")


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """Return up to `count` known names that resemble `name`, as text for an error message."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=count, cutoff=0.5)
    if close:
        return f"Did you mean {' or '.join(close)}?"
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return f"Known: {', '.join(names[:12])}{more}." if names else "None is known here."
