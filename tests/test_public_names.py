"""The public names: a list to change on purpose only."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import edgetl
from edgetl.errors import MissingError

PACKAGE = Path(edgetl.__file__).parent
ROOMS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
PUBLIC = ["BuildSettings", "Bundle", "EdgetlError", "Predictor", "__version__", "build", "build_each"]


def open_room(name: str) -> ModuleType:
    """Return the imported room; skip where a library that it needs is not installed."""
    try:
        return import_module(name)
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] == "edgetl":
            raise
        pytest.skip(f"{name} needs {missing.name}, which is not installed")


def test_the_public_names_are_these() -> None:
    assert edgetl.__all__ == PUBLIC
    assert dir(edgetl) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_there(name: str) -> None:
    if name in edgetl._ROOMS:
        room = open_room(edgetl._ROOMS[name])
        assert getattr(edgetl, name) is getattr(room, name)
        assert name in room.__all__
    else:
        assert isinstance(getattr(edgetl, name), str)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'edgetl' has no attribute 'biuld'"):
        _ = edgetl.biuld


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_lists_its_names_and_has_them(name: str) -> None:
    room = open_room(f"edgetl.{name}")

    assert len(set(room.__all__)) == len(room.__all__)
    try:
        assert [listed for listed in room.__all__ if not hasattr(room, listed)] == []
    except MissingError as missing:  # a room may open its doors late
        pytest.skip(str(missing))
