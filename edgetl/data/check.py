"""Finds photos that cannot be read, that occur twice or under two labels, or that are trained on and measured on."""

from __future__ import annotations

from collections import defaultdict

from edgetl.data.dataset import SPLITS, Dataset, Item, Split
from edgetl.data.threads import in_threads
from edgetl.errors import DataError
from edgetl.records import Progress, Quiet, Record
from edgetl.runtime.preprocess import open_photo

__all__ = ["BadImage", "Check", "Conflict", "Duplicate", "Leak", "check_dataset", "usable_photos"]

# Above this share of unreadable photos the folder is not what the user thinks, and skipping would hide it.
MOST_BAD = 0.5
_NAMED_AT_MOST = 20


class BadImage(Record):
    """A photo that cannot be read, and why; the path is relative to the dataset's root."""

    path: str
    reason: str


class Leak(Record):
    """A training photo that is measured on too, and under which path: the same picture, by sha256. Both paths are
    relative to the dataset's root."""

    train: str
    measured: str


class Duplicate(Record):
    """The paths of one picture, by sha256, that occurs at least twice in one split."""

    split: Split
    paths: tuple[str, ...]


class Conflict(Record):
    """The paths of one picture, by sha256, that stands under several labels."""

    paths: tuple[str, ...]


class Check(Record):
    """What was found in a dataset, in the dataset's order."""

    bad: tuple[BadImage, ...] = ()
    leaks: tuple[Leak, ...] = ()
    duplicates: tuple[Duplicate, ...] = ()
    conflicts: tuple[Conflict, ...] = ()

    @property
    def copies(self) -> int:
        """Files that could go without losing a picture of their split."""
        return sum(len(group.paths) - 1 for group in self.duplicates)


def check_dataset(dataset: Dataset, progress: Progress | None = None) -> Check:
    """Return what is wrong with a dataset's photos, each of which is decoded once; nothing is changed."""

    def reason_of(item: Item) -> str | None:
        path = dataset.path_of(item)
        try:
            open_photo(path)
        except DataError as error:
            return str(error).removeprefix(f"{path}: ")
        return None

    reasons = in_threads(reason_of, dataset.items, "Checking photos", progress or Quiet())
    bad = (
        BadImage(path=item.path.as_posix(), reason=reason)
        for item, reason in zip(dataset.items, reasons, strict=True)
        if reason is not None
    )
    pictures: defaultdict[str, list[Item]] = defaultdict(list)
    for item in dataset.items:
        pictures[item.sha256].append(item)
    leaks, duplicates, conflicts = [], [], []
    for copies in pictures.values():
        paths_of = {split: [item.path.as_posix() for item in copies if item.split == split] for split in SPLITS}
        if measured := paths_of[dataset.evaluation]:
            leaks += [Leak(train=path, measured=measured[0]) for path in paths_of["train"]]
        duplicates += [
            Duplicate(split=split, paths=tuple(paths)) for split, paths in paths_of.items() if len(paths) > 1
        ]
        if len({item.label for item in copies}) > 1:
            conflicts.append(Conflict(paths=tuple(item.path.as_posix() for item in copies)))
    return Check(bad=tuple(bad), leaks=tuple(leaks), duplicates=tuple(duplicates), conflicts=tuple(conflicts))


def usable_photos(dataset: Dataset, check: Check, skip_bad: bool) -> Dataset:
    """Return the dataset less the photos that cannot be read, and less the training photos that are measured on too;
    the same one if there are neither.

    Raises:
        DataError: photos cannot be read and `skip_bad` is false, or more than half of all are bad, or what is left has
            a class without train photos, fewer than two classes, or nothing to measure on.
    """
    unread = f"{dataset.root}: {len(check.bad)} of {len(dataset.items)} photos cannot be read"
    if len(check.bad) > MOST_BAD * len(dataset.items):
        raise DataError(f"{unread}, more than half:\n{_list_bad(check)}\nIs this the right folder?")
    if check.bad and not skip_bad:
        raise DataError(f"{unread}:\n{_list_bad(check)}\nRepair or remove them, or leave them out with --skip-bad")
    kept = _without(dataset, {image.path for image in check.bad}, unread)
    leaked = f"{dataset.root}: {len(check.leaks)} training photos are measured on too, and so left out of training"
    return _without(kept, {leak.train for leak in check.leaks}, leaked)


def _without(dataset: Dataset, paths: set[str], why: str) -> Dataset:
    """Return the dataset less these paths.

    Raises:
        DataError: `why`, and what is missing then.
    """
    if not paths:
        return dataset
    kept = dataset.without(item for item in dataset.items if item.path.as_posix() in paths)
    trained = {item.label for item in kept.of("train")}
    empty = [label for index, label in enumerate(dataset.labels) if index not in trained]
    if len(trained) < 2:
        raise DataError(f"{why}. Without them fewer than two classes are left: add photos of {', '.join(empty)}")
    if empty:
        raise DataError(f"{why}. Without them the class {empty[0]!r} has no photo in train: add some, or remove it")
    if not kept.of(dataset.evaluation):
        raise DataError(f"{why}. Without them {dataset.evaluation} is empty: add photos to measure on")
    return kept


def _list_bad(check: Check) -> str:
    lines = [f"  {image.path}: {image.reason}" for image in check.bad[:_NAMED_AT_MOST]]
    more = len(check.bad) - _NAMED_AT_MOST
    return "\n".join([*lines, f"  and {more} more"] if more > 0 else lines)
