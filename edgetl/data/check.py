"""Finds photos that cannot be read, that occur twice, or that are in train and held out at once."""

from __future__ import annotations

from collections import defaultdict

from edgetl.data.dataset import SPLITS, Dataset, Item, Split
from edgetl.data.threads import in_threads
from edgetl.errors import DataError
from edgetl.records import Progress, Quiet, Record
from edgetl.runtime.preprocess import open_photo

__all__ = ["BadImage", "Check", "Duplicate", "Leak", "check_dataset", "without_bad"]

# Above this share of unreadable photos the folder is not what the user thinks, and skipping would hide it.
MOST_BAD = 0.5
_NAMED_AT_MOST = 20


class BadImage(Record):
    """A photo that cannot be read, and why; the path is relative to the dataset's root."""

    path: str
    reason: str


class Leak(Record):
    """The same picture, by sha256, in train and in val or test; both paths are relative to the dataset's root."""

    train: str
    held_out: str


class Duplicate(Record):
    """The paths of one picture, by sha256, that occurs at least twice in one split."""

    split: Split
    paths: tuple[str, ...]


class Check(Record):
    """What was found in a dataset, in the dataset's order."""

    bad: tuple[BadImage, ...]
    leaks: tuple[Leak, ...]
    duplicates: tuple[Duplicate, ...]

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
    paths_of: defaultdict[str, dict[Split, list[str]]] = defaultdict(lambda: {split: [] for split in SPLITS})
    for item in dataset.items:
        paths_of[item.sha256][item.split].append(item.path.as_posix())
    leaks = (
        Leak(train=paths["train"][0], held_out=path)
        for paths in paths_of.values()
        for path in [*paths["val"], *paths["test"]]
        if paths["train"]
    )
    duplicates = (
        Duplicate(split=split, paths=tuple(same))
        for paths in paths_of.values()
        for split, same in paths.items()
        if len(same) > 1
    )
    return Check(bad=tuple(bad), leaks=tuple(leaks), duplicates=tuple(duplicates))


def without_bad(dataset: Dataset, check: Check, skip: bool) -> Dataset:
    """Return the dataset less the photos that cannot be read; the same one if there are none.

    Raises:
        DataError: there are some and `skip` is false, or more than half of all are bad, or what is left has a class
            without train photos, fewer than two classes, or nothing to measure on.
    """
    if not check.bad:
        return dataset
    found = f"{dataset.root}: {len(check.bad)} of {len(dataset.items)} photos cannot be read"
    if len(check.bad) > MOST_BAD * len(dataset.items):
        raise DataError(f"{found}, more than half:\n{_list_bad(check)}\nIs this the right folder?")
    if not skip:
        raise DataError(f"{found}:\n{_list_bad(check)}\nRepair or remove them, or leave them out with --skip-bad")
    bad = {image.path for image in check.bad}
    kept = dataset.without(item for item in dataset.items if item.path.as_posix() in bad)
    trained = {item.label for item in kept.of("train")}
    empty = [label for index, label in enumerate(dataset.labels) if index not in trained]
    if len(trained) < 2:
        raise DataError(f"{found}. Without them fewer than two classes are left: add photos of {', '.join(empty)}")
    if empty:
        raise DataError(f"{found}. Without them the class {empty[0]!r} has no photo in train: add some, or remove it")
    if not kept.of(dataset.evaluation):
        raise DataError(f"{found}. Without them {dataset.evaluation} is empty: add photos to measure on")
    return kept


def _list_bad(check: Check) -> str:
    lines = [f"  {image.path}: {image.reason}" for image in check.bad[:_NAMED_AT_MOST]]
    more = len(check.bad) - _NAMED_AT_MOST
    return "\n".join([*lines, f"  and {more} more"] if more > 0 else lines)
