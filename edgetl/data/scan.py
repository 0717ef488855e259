"""Finds the photos in class folders."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from edgetl.errors import DataError

__all__ = ["LAYOUTS", "SUFFIXES", "Scan", "check_name", "scan_classes", "visible_folders"]

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
LAYOUTS = (
    "Expected <class>/photo.jpg; or train/<class>/photo.jpg, val/<class>/photo.jpg and, if you like, test/; "
    "or class folders and a split.csv with the columns path,split"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scan:
    """What lies in a folder of class folders: photos by class, paths from the dataset's root; and what was left out."""

    photos: dict[str, tuple[Path, ...]]
    left_out: Counter[str]

    @property
    def count(self) -> int:
        """Photos in all classes."""
        return sum(len(paths) for paths in self.photos.values())

    def describe_left_out(self) -> str:
        """Return what was left out, by kind: `3 files ending in .txt, 2 photos outside the class folders`."""
        return ", ".join(f"{count} {kind}" for kind, count in sorted(self.left_out.items()))


def visible_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder, links to folders included, sorted by name, less the hidden ones.

    Raises:
        DataError: the folder cannot be read.
    """
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith(".") and entry.is_dir())
    except OSError as error:
        _refuse(error)


def scan_classes(root: Path, folder: Path) -> Scan:
    """Return the photos of every class folder in `folder`, which is `root` or lies in it.

    A file is a photo by its suffix. Hidden files and folders are passed over.

    Raises:
        DataError: a folder cannot be read, or a name holds what cannot be written to a text file.
    """
    left_out: Counter[str] = Counter()
    photos: dict[str, tuple[Path, ...]] = {}
    for class_folder in visible_folders(folder):
        paths = []
        for path in _files_below(class_folder):
            if path.suffix.lower() in SUFFIXES:
                relative = path.relative_to(root)
                check_name(root, relative)
                paths.append(relative)
            else:
                left_out[f"files ending in {path.suffix.lower()}" if path.suffix else "files without a suffix"] += 1
        check_name(root, class_folder.relative_to(root))
        photos[class_folder.name] = tuple(paths)
    for entry in folder.iterdir():
        if entry.suffix.lower() in SUFFIXES and not entry.name.startswith(".") and entry.is_file():
            left_out["photos outside the class folders"] += 1
    return Scan(photos=photos, left_out=left_out)


def check_name(root: Path, path: Path) -> None:
    """Refuse a path from the root that is not UTF-8 or holds control characters: no label or report could hold it.

    Raises:
        DataError: names the path, the characters escaped.
    """
    if any(unicodedata.category(letter) in {"Cc", "Cs"} for letter in path.as_posix()):
        raise DataError(
            f"{root}: the name {path.as_posix()!a} is not UTF-8 or holds control characters. Rename the file or folder"
        )


def _files_below(folder: Path) -> list[Path]:
    """Return every visible file below a folder, in the order of names; a folder linked to twice is read once."""
    files: list[Path] = []
    seen: set[Path] = set()
    for where, folders, names in os.walk(folder, followlinks=True, onerror=_refuse):
        here = Path(where)
        # Without this a link to a folder above itself would be followed until the path is too long.
        if here.resolve() in seen:
            folders.clear()
            continue
        seen.add(here.resolve())
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [here / name for name in sorted(names) if not name.startswith(".")]
    return files


def _refuse(error: OSError) -> NoReturn:
    raise DataError(f"{error.filename}: cannot be read: {error.strerror}. Check the folder's permissions") from error
