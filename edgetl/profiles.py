"""Reads TOML into records, from a file of the user's or from the data that comes with edgetl."""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from edgetl.errors import EdgetlError, MissingError, nearest
from edgetl.folders import config_folder
from edgetl.records import Record

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

__all__ = ["explain", "load_named", "profile_names", "read_toml", "read_toml_table"]

R = TypeVar("R", bound=Record)


def profile_names(package: str) -> tuple[str, ...]:
    """Return the names of the TOML files in a data package and in the user's folder of that kind, sorted.

    Raises:
        MissingError: edgetl is not installed.
    """
    try:
        names = [entry.name for entry in resources.files(package).iterdir()]
    except ModuleNotFoundError:  # the folder of that name lies beside edgetl's, and is mapped into it when installed
        sources = Path(__file__).parents[1]
        raise MissingError(
            f"edgetl runs from its sources in {sources}, which hide an installed one. Run from another folder, or "
            f"install these: pip install -e {sources}"
        ) from None
    if _own(package).is_dir():
        names += [path.name for path in _own(package).iterdir()]
    return tuple(sorted({name.removesuffix(".toml") for name in names if name.endswith(".toml")}))


def load_named(package: str, name: str, kind: type[R], error: type[EdgetlError], aliases: tuple[str, ...] = ()) -> R:
    """Return the record of that name, or from a file where the name ends in `.toml`.

    A file in the user's folder (`~/.config/edgetl/targets/` for `edgetl._targets`) goes before the package's.

    Args:
        package: the data package.
        name: a name, or a file's path.
        kind: the record.
        error: the class of error to raise.
        aliases: more names to think of where this one is unknown.

    Raises:
        EdgetlError: as the given class: unknown name (the nearest are named), or what `read_toml` raises.
    """
    if name.endswith(".toml"):
        return read_toml(Path(name), kind, error)
    known = profile_names(package)
    if name not in known:
        what = error.__name__.removesuffix("Error").lower()
        raise error(
            f"unknown {what} {name!r}. {nearest(name, (*known, *aliases))} "
            f"A file of your own works too: ./my-{what}.toml"
        )
    own = _own(package) / f"{name}.toml"
    if not own.is_file():
        return read_toml(resources.files(package) / f"{name}.toml", kind, error)
    record = read_toml(own, kind, error)
    if (said := getattr(record, "name", name)) != name:
        raise error(f"{own}: says name = {said!r}, but a file in this folder goes by its own name. Say {name!r}")
    return record


def _own(package: str) -> Path:
    return config_folder() / package.removeprefix("edgetl._")


def read_toml(path: Path | Traversable, kind: type[R], error: type[EdgetlError]) -> R:
    """Return the record that a TOML file describes.

    Raises:
        EdgetlError: as the given class: no such file, no TOML, an unknown key (the nearest is named), a wrong value.
    """
    try:
        return kind.model_validate(read_toml_table(path, error))
    except ValidationError as invalid:
        raise error(f"{path}: {explain(invalid, kind)}") from invalid


def read_toml_table(path: Path | Traversable, error: type[EdgetlError]) -> dict[str, Any]:
    """Return the content of a TOML file as plain data; raises as `read_toml` does."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise error(f"{path}: no such file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as invalid:
        raise error(f"{path}: not TOML: {invalid}") from invalid


def explain(invalid: ValidationError, kind: type[Record]) -> str:
    """Return the first thing that is wrong, in one line: which key, what was found, what is allowed."""
    errors = invalid.errors()
    first = errors[0]
    if first["type"] == "missing":  # a typo makes one key missing and one unknown: the latter tells more
        first = next((error for error in errors if error["type"] == "extra_forbidden"), first)
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown key {key!r}. {nearest(str(first['loc'][-1]), _fields(kind, first['loc'][:-1]))}"
    if first["type"] == "missing":
        return f"{key} is missing"
    if first["type"] == "value_error":
        return f"{key}: {first['msg'].removeprefix('Value error, ')}".removeprefix(": ")
    return f"{key}: {first['msg']}, found {first['input']!r}"


def _fields(kind: type[Record], path: tuple[int | str, ...]) -> list[str]:
    for part in path:
        annotation = kind.model_fields[str(part)].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, Record)):
            return []
        kind = annotation
    return [field.alias or name for name, field in kind.model_fields.items()]
