"""edgetl: transfer learning for edge devices, from a folder of photos to a verified bundle that runs on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgetl.bundle import Bundle
    from edgetl.errors import EdgetlError
    from edgetl.pipeline import BuildSettings, build, build_each
    from edgetl.runtime import Predictor

    __version__: str

__all__ = ["BuildSettings", "Bundle", "EdgetlError", "Predictor", "__version__", "build", "build_each"]

# Public name -> room. Imported on first use, so that a device never imports the training rooms.
_ROOMS = {
    "BuildSettings": "edgetl.pipeline",
    "Bundle": "edgetl.bundle",
    "EdgetlError": "edgetl.errors",
    "Predictor": "edgetl.runtime",
    "build": "edgetl.pipeline",
    "build_each": "edgetl.pipeline",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("edgetl")
    if name not in _ROOMS:
        raise AttributeError(f"module 'edgetl' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_ROOMS[name]), name)


def __dir__() -> list[str]:
    return __all__
