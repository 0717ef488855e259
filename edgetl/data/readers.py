"""Reads a dataset from what the user named: one reader a format, tried in order."""

from __future__ import annotations

import csv
import dataclasses
import difflib
import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from edgetl.data.dataset import SPLITS, Dataset, Item, Split, hold_out
from edgetl.data.digits import digits_folder
from edgetl.data.scan import LAYOUTS, SUFFIXES, Scan, check_name, scan_classes, visible_folders
from edgetl.data.threads import in_threads
from edgetl.errors import DataError
from edgetl.records import Progress, Quiet

__all__ = ["READERS", "Digits", "FlatFolder", "Reader", "SplitFile", "SplitFolders", "read_dataset"]

# Held out of train where the user named no val.
VAL_SHARE = 0.2


class Reader(Protocol):
    """One format of dataset."""

    def recognizes(self, source: str) -> bool:
        """Say whether the source is of this format."""

    def read(self, source: str, seed: int, progress: Progress) -> Dataset:
        """Return the dataset, or raise a DataError."""


def read_dataset(source: str, seed: int, progress: Progress | None = None) -> Dataset:
    """Return the dataset that lies in a folder, or the one known by the word `digits`.

    Args:
        source: a folder with split.csv, with train/ and perhaps val/ and test/, or with class folders; or `digits`.
        seed: decides which fifth of train becomes val where the user named none.
        progress: told how many files are read.

    Raises:
        DataError: no such folder, no photos, fewer than two classes, a class without photos, a wrong split.csv.
        MissingError: `digits` was named, and scikit-learn or a folder to write to is missing.
    """
    progress = progress or Quiet()
    for reader in READERS:
        if reader.recognizes(source):
            return reader.read(source, seed, progress)
    raise _no_such_folder(source)


@dataclass(frozen=True, slots=True)
class SplitFile:
    """A folder with `split.csv`, columns path and split; the class is the first folder of the path."""

    def recognizes(self, source: str) -> bool:
        """Say whether the folder holds split.csv."""
        return bool(source) and (Path(source) / "split.csv").is_file()

    def read(self, source: str, seed: int, progress: Progress) -> Dataset:
        """Return the photos that split.csv names, in the splits it names."""
        root = Path(source)
        where = root / "split.csv"
        photos: dict[Path, Split] = {}
        for line, row in _rows(where, progress):
            path, split = _photo_of(row, root, f"{where}: line {line}")
            if path in photos:
                raise DataError(f"{where}: line {line}: {path.as_posix()} is named twice. Remove one of the lines")
            photos[path] = split
        if not photos:
            raise DataError(f"{where}: names no photo. Add a line such as cat/1.jpg,train for each")
        labels = tuple(sorted({path.parts[0] for path in photos}))
        trained = {path.parts[0] for path, split in photos.items() if split == "train"}
        for label in labels:
            if label not in trained:
                raise DataError(f"{where}: the class {label!r} has no photo in train. Mark some of its lines train")
        found = [(path, labels.index(path.parts[0]), split) for path, split in photos.items()]
        dataset = _dataset(root, labels, found, progress)
        if not dataset.of(dataset.evaluation):
            raise DataError(f"{where}: no line says val or test, so nothing is left to measure on. Mark some lines val")
        return dataset


@dataclass(frozen=True, slots=True)
class SplitFolders:
    """The folders train, val and test, each with class folders; a missing val is held out of train."""

    def recognizes(self, source: str) -> bool:
        """Say whether the folders are splits: train/ holds folders, or none but train/, val/ and test/ are there."""
        root = Path(source)
        if not source or not root.is_dir():
            return False
        names = {folder.name for folder in visible_folders(root)}
        # A class of vehicles may be called train.
        return bool(names) and (names <= set(SPLITS) or ("train" in names and bool(visible_folders(root / "train"))))

    def read(self, source: str, seed: int, progress: Progress) -> Dataset:
        """Return the photos of all splits."""
        root = Path(source)
        for label, paths in scan_classes(root, root).photos.items():
            if paths and label not in SPLITS:
                raise DataError(
                    f"{root}: {label}/ stands beside train/, but the splits are called train, val and test. "
                    "Rename it, or move it away"
                )
        scans = {split: scan_classes(root, root / split) for split in SPLITS if (root / split).is_dir()}
        if "train" not in scans:
            raise DataError(f"{root}: has {'/ and '.join(scans)}/ but no train/. Add it. {LAYOUTS}")
        labels = _labels_of(scans["train"], root / "train")
        for split, scan in scans.items():
            unknown = sorted(set(scan.photos) - set(labels))
            if unknown:
                raise DataError(
                    f"{root / split}: the class {unknown[0]!r} is not in train/ ({', '.join(labels)}). "
                    f"Add photos of it to train/, or remove it from {split}/"
                )
            if not scan.count:
                raise DataError(f"{root / split}: holds no photos in class folders. Add some, or remove the folder")
            _say_left_out(scan, root / split, progress)
        found = [
            (path, labels.index(label), split)
            for split, scan in scans.items()
            for label, paths in scan.photos.items()
            for path in paths
        ]
        dataset = _dataset(root, labels, found, progress)
        return dataset if {"val", "test"} & scans.keys() else _with_val(dataset, seed)


@dataclass(frozen=True, slots=True)
class FlatFolder:
    """One folder a class; val is held out of each."""

    def recognizes(self, source: str) -> bool:
        """Say whether the source is a folder."""
        return bool(source) and Path(source).is_dir()

    def read(self, source: str, seed: int, progress: Progress) -> Dataset:
        """Return the photos, a fifth of each class in val and the others in train."""
        root = Path(source)
        scan = scan_classes(root, root)
        labels = _labels_of(scan, root)
        _say_left_out(scan, root, progress)
        found: list[tuple[Path, int, Split]] = [
            (path, labels.index(label), "train") for label, paths in scan.photos.items() for path in paths
        ]
        return _with_val(_dataset(root, labels, found, progress), seed)


@dataclass(frozen=True, slots=True)
class Digits:
    """The word `digits`: scikit-learn's 1,797 handwritten digits, a fixed fifth of each class in test."""

    def recognizes(self, source: str) -> bool:
        """Say whether the source is the word; a folder of that name goes first."""
        return source == "digits" and not Path(source).exists()

    def read(self, source: str, seed: int, progress: Progress) -> Dataset:
        """Return the digits, written to the cache folder the first time."""
        return SplitFile().read(str(digits_folder()), seed, progress)


READERS: tuple[Reader, ...] = (SplitFile(), SplitFolders(), FlatFolder(), Digits())


def _rows(where: Path, progress: Progress) -> list[tuple[int, dict[str, str]]]:
    """Return the rows of split.csv with their line numbers; a cell that is missing is empty."""
    try:
        with where.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file, restval="", restkey="", strict=True)
            columns = list(table.fieldnames or ())
            for column in ("path", "split"):
                if column not in columns:
                    raise DataError(
                        f"{where}: line 1: the column {column!r} is missing, found {', '.join(columns) or 'nothing'}. "
                        "The first line must be path,split"
                    )
            unused = [column for column in columns if column not in {"path", "split"}]
            if unused:
                progress.say(f"{where}: not used: {', '.join(unused)}. The class is the first folder of the path")
            rows = []
            for row in table:
                if row.pop("", None):
                    raise DataError(
                        f"{where}: line {table.line_num}: more cells than columns. Quote a path with a comma"
                    )
                rows.append((table.line_num, row))
            return rows
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{where}: cannot be read as a UTF-8 table: {error}. Save it as CSV in UTF-8") from error


def _photo_of(row: dict[str, str], root: Path, where: str) -> tuple[Path, Split]:
    """Return path and split of one row of split.csv; `where` opens the error texts."""
    text, split = row["path"], row["split"]
    path = PurePosixPath(text)
    if split not in SPLITS:
        raise DataError(f"{where}: split is {split!r}. Write train, val or test")
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"{where}: {text} leaves the folder. Write the path from {root}, without ..")
    if len(path.parts) < 2:
        raise DataError(f"{where}: {text!r} lies in no class folder. Write <class>/{path.name or 'photo.jpg'}")
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{where}: {text} is no photo by its suffix. Read are {', '.join(sorted(SUFFIXES))}")
    check_name(root, Path(path))
    if not (root / path).is_file():
        raise DataError(f"{where}: {text} does not exist in {root}. Correct the path, or remove the line")
    return Path(path), split


def _labels_of(scan: Scan, where: Path) -> tuple[str, ...]:
    """Return the class names of a scan, each of which must have photos."""
    if not scan.count:
        found = scan.describe_left_out() or "nothing that counts"
        raise DataError(f"{where}: no photos in class folders, found {found}. {LAYOUTS}")
    for label, paths in scan.photos.items():
        if not paths:
            raise DataError(f"{where / label}: the class has no photos. Add some, or remove the folder")
    if len(scan.photos) < 2:
        raise DataError(f"{where}: one class, {next(iter(scan.photos))!r}, but at least two are needed. {LAYOUTS}")
    return tuple(sorted(scan.photos))


def _dataset(root: Path, labels: tuple[str, ...], found: list[tuple[Path, int, Split]], progress: Progress) -> Dataset:
    """Return the dataset of what was found, each file hashed."""
    if len(labels) < 2:
        raise DataError(f"{root}: one class, {labels[0]!r}, but at least two are needed. {LAYOUTS}")
    found = sorted(found, key=lambda each: each[0].as_posix())
    hashes = in_threads(_hash_file, [root / path for path, _, _ in found], "Reading photos", progress)
    items = (
        Item(path=path, label=label, split=split, sha256=sha256)
        for (path, label, split), sha256 in zip(found, hashes, strict=True)
    )
    return Dataset(root=root, labels=labels, items=tuple(items))


def _with_val(dataset: Dataset, seed: int) -> Dataset:
    """Return the dataset with a fifth of train in val."""
    held = frozenset(hold_out(dataset.of("train"), VAL_SHARE, seed)[1])
    if not held:
        raise DataError(f"{dataset.root}: one photo a class, so none can be held out to measure on. Add photos")
    items = (dataclasses.replace(item, split="val") if item in held else item for item in dataset.items)
    return Dataset(root=dataset.root, labels=dataset.labels, items=tuple(items))


def _hash_file(path: Path) -> str:
    try:
        if not path.is_file():
            raise DataError(f"{path}: is a broken link or no ordinary file. Remove it")
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}. Check its permissions") from error


def _say_left_out(scan: Scan, where: Path, progress: Progress) -> None:
    if scan.left_out:
        progress.say(f"{where}: left out: {scan.describe_left_out()}")


def _no_such_folder(source: str) -> DataError:
    if Path(source).is_file():
        return DataError(
            f"{source}: is a file, but a folder of photos is needed. Unpack it, or name its folder. {LAYOUTS}"
        )
    if difflib.get_close_matches(source.lower(), ["digits"]):
        return DataError(f"{source}: no such folder. Did you mean digits, the data set that comes with scikit-learn?")
    return DataError(f"{source or 'an empty name'}: no such folder. Name a folder of photos, or digits. {LAYOUTS}")
