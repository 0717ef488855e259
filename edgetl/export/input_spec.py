"""Reads how a classifier that was trained elsewhere wants its photos, and what its classes are called: what the user
says of it goes before what its file says."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgetl.errors import GraphError
from edgetl.records import Channels, Fit, Triple

__all__ = ["InputSpec", "read_channels", "read_labels", "read_range"]

# Keys of a file's metadata: ONNX's own words for images, and those of common exporters.
PIXELS, RANGE = "Image.BitmapPixelFormat", "Image.NominalPixelRange"
LABEL_KEYS = ("labels", "names", "classes")
# What ONNX calls a range of pixels -> the mean and std of pixel/255 that make it.
RANGES: dict[str, tuple[float, float]] = {
    "NominalRange_0_255": (0.0, 1 / 255),
    "Normalized_0_1": (0.0, 1.0),
    "Normalized_1_1": (0.5, 0.5),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class InputSpec:
    """How a graph wants its photos, as far as the user says: mean and std are of pixel/255, in the order of channels
    that the graph reads; `side` is the photo's side in pixels. None leaves it to the file. `labelled` says that the
    user names the classes."""

    side: int | None = None
    fit: Fit = "crop"
    crop_share: float = 1.0
    mean: Triple | None = None
    std: Triple | None = None
    channels: Channels | None = None
    labelled: bool = False


def read_channels(said: Mapping[str, str], spec: InputSpec) -> Channels:
    """Return the order of colours that a graph reads: RGB where nobody says.

    Args:
        said: the file's metadata.
        spec: what the user says.
    """
    return spec.channels or ("bgr" if said.get(PIXELS, "").lower().startswith("bgr") else "rgb")


def read_range(path: Path, said: Mapping[str, str], spec: InputSpec) -> tuple[Triple, Triple]:
    """Return mean and std of pixel/255, in the graph's order of channels.

    Args:
        path: the file, for what an error says.
        said: the file's metadata.
        spec: what the user says.

    Raises:
        GraphError: nobody says them, or they are not of pixel/255.
    """
    known = RANGES.get(said.get(RANGE, ""))
    mean = spec.mean or _triple(said.get("mean")) or ((known[0],) * 3 if known else None)
    std = spec.std or _triple(said.get("std")) or ((known[1],) * 3 if known else None)
    if mean is None or std is None:
        strange = f" its {RANGE}, {said[RANGE]}, is not known here." if RANGE in said and known is None else ""
        raise GraphError(
            f"{path}: does not say how its pixels are normalised.{strange} Say --mean and --std, of pixel/255: "
            "ImageNet's are --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225, none are --mean 0,0,0 --std 1,1,1"
        )
    if not all(value > 0 for value in std):
        raise GraphError(f"{path}: its std is {_listed(std)}, but it is divided by, so each must be above 0")
    if not all(0 <= value <= 1 for value in mean):
        raise GraphError(
            f"{path}: its mean is {_listed(mean)} and its std {_listed(std)}, but of pixel/255 a mean lies between 0 "
            "and 1. Divide what is of 255 by 255"
        )
    return mean, std


def read_labels(path: Path, said: Mapping[str, str], classes: int) -> tuple[str, ...] | None:
    """Return the classes that a file names, None where it names none: a list, lines, words between commas, or numbers
    and names either way round, as Ultralytics and Hugging Face write them.

    Args:
        path: the file, for what an error says.
        said: the file's metadata.
        classes: how many the graph tells apart.

    Raises:
        GraphError: it names others in number, or in a form that is not known.
    """
    for key in LABEL_KEYS:
        if key not in said:
            continue
        found = _literal(said[key])
        if isinstance(found, int):  # how many there are
            continue
        if isinstance(found, Mapping):
            pairs = [(k, v) if isinstance(v, str) else (v, k) for k, v in found.items()]
            found = [name for _, name in sorted(pairs, key=lambda pair: int(pair[0]))] if _numbered(pairs) else None
        elif found is None:
            found = [each.strip() for each in said[key].replace("\n", ",").split(",") if each.strip()]
        if not isinstance(found, list | tuple) or len(found) != classes or not all(map(_is_name, found)):
            raise GraphError(
                f"{path}: names classes in its metadata under {key!r}, but not {classes} of them in a form that is "
                "known here. Say --labels FILE"
            )
        return tuple(map(str, found))
    return None


def _listed(values: Triple) -> str:
    return ",".join(f"{value:g}" for value in values)


def _triple(text: str | None) -> Triple | None:
    """Return three finite numbers that a file says, or None."""
    values = _literal(text)
    if not isinstance(values, Sequence) or len(values) != 3:
        return None
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
        return None
    return float(values[0]), float(values[1]), float(values[2])


def _is_name(found: object) -> bool:
    """Say whether something may be a class's name: a digit's is its number."""
    return isinstance(found, str | int)


def _numbered(pairs: Sequence[tuple[Any, Any]]) -> bool:
    return all(str(number).isdecimal() and isinstance(name, str) for number, name in pairs)


def _literal(text: str | None) -> Any:
    """Return what a text says as JSON or as Python's literals, None where it is neither."""
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError:
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return None
