"""Holds labelled photos in train, val and test, and holds some out by class."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from edgetl.errors import DataError, SettingsError, nearest
from edgetl.records import IntArray

__all__ = ["SPLITS", "Dataset", "Item", "Split", "balanced", "hold_out", "labels_of"]

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One labelled photo: its path relative to the dataset's root, and the sha256 of the file's bytes in hex."""

    path: Path
    label: int
    split: Split
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """Labelled photos under one root: class names in sorted order, or in that of a network, items sorted by path."""

    root: Path
    labels: tuple[str, ...]
    items: tuple[Item, ...]

    def of(self, split: Split) -> tuple[Item, ...]:
        """Return the items of one split, in the dataset's order."""
        return tuple(item for item in self.items if item.split == split)

    @property
    def evaluation(self) -> Split:
        """The split that results are measured on: test where there is one, else val."""
        return "test" if any(item.split == "test" for item in self.items) else "val"

    @property
    def classes(self) -> dict[int, str]:
        """The labels that have photos, by their number; a network trained elsewhere may know more."""
        there = sorted({item.label for item in self.items})
        return {number: self.labels[number] for number in there}

    @property
    def digest(self) -> str:
        """Sha256 in hex over labels, paths, splits and contents; the same wherever the root lies."""
        rows = [[item.path.as_posix(), item.label, item.split, item.sha256] for item in self.items]
        return hashlib.sha256(json.dumps([self.labels, rows]).encode()).hexdigest()

    def path_of(self, item: Item) -> Path:
        """Return where the item's file lies."""
        return self.root / item.path

    def labelled(self, labels: tuple[str, ...]) -> Dataset:
        """Return the dataset with its classes among these labels, in this order.

        Raises:
            DataError: one of its classes is not among them.
        """
        for label in self.labels:
            if label not in labels:
                raise DataError(
                    f"{self.root}: the class {label!r} is not among the network's labels. {nearest(label, labels)} "
                    "Name the folders as --labels does"
                )
        numbers = [labels.index(label) for label in self.labels]
        items = tuple(replace(item, label=numbers[item.label]) for item in self.items)
        return Dataset(root=self.root, labels=labels, items=items)

    def without(self, items: Iterable[Item]) -> Dataset:
        """Return the dataset less these items; labels stay as they are."""
        gone = frozenset(items)
        return Dataset(root=self.root, labels=self.labels, items=tuple(item for item in self.items if item not in gone))


def hold_out(items: Iterable[Item], share: float, seed: int) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """Return the items that stay and the items held out, both sorted by path, with the same share of every class.

    Which photos are held out depends on the seed and on their contents alone, so neither the order of the items nor a
    new file name moves them. Copies of one picture stay together, so that none is on both sides. A class of two
    photos or more has at least one on each side (copies are parted only where a class holds nothing else).

    Args:
        items: photos of any split; their split is not changed.
        share: share held out of each class, in (0, 1).
        seed: another seed holds out other photos.

    Raises:
        SettingsError: the share is not between 0 and 1.
    """
    if not 0.0 < share < 1.0:
        raise SettingsError(
            f"the share held out must lie between 0 and 1, found {share}. Give 0.2 for one photo in five"
        )
    rest: list[Item] = []
    held: list[Item] = []
    by_label: defaultdict[int, list[Item]] = defaultdict(list)
    for item in sorted(items, key=_by_path):
        by_label[item.label].append(item)
    for members in by_label.values():
        chosen = _choose(members, share, seed)
        held += chosen
        rest += [item for item in members if item not in chosen]
    return tuple(sorted(rest, key=_by_path)), tuple(sorted(held, key=_by_path))


def balanced(items: Iterable[Item], count: int, seed: int) -> tuple[Item, ...]:
    """Return up to `count` items, taking the classes in turn, so that a rare class has as many as a common one.

    Which items depends on the seed and on their contents, not on their order.
    """
    turns: defaultdict[int, int] = defaultdict(int)
    ranked: list[tuple[int, int, Item]] = []
    for item in sorted(items, key=lambda item: (_draw(item, seed), _by_path(item))):
        ranked.append((turns[item.label], item.label, item))
        turns[item.label] += 1
    return tuple(item for _, _, item in sorted(ranked, key=lambda row: row[:2])[:count])


def labels_of(items: Iterable[Item]) -> IntArray:
    """Return the items' classes, int64 of shape (items,)."""
    return np.array([item.label for item in items], dtype=np.int64)


def _choose(members: list[Item], share: float, seed: int) -> frozenset[Item]:
    """Return the held out items of one class."""
    if len(members) < 2:
        return frozenset()
    copies: defaultdict[str, list[Item]] = defaultdict(list)
    for item in members:
        copies[item.sha256].append(item)
    pictures = sorted(copies.values(), key=lambda group: _draw(group[0], seed))
    if len(pictures) == 1:
        pictures = [[item] for item in pictures[0]]
    wanted = min(max(1, round(share * len(members))), len(members) - 1)
    chosen: list[Item] = []
    for group in pictures:
        if len(chosen) + len(group) <= wanted:
            chosen += group
    if not chosen:
        chosen = min(pictures, key=len)
    return frozenset(chosen)


def _draw(item: Item, seed: int) -> str:
    return hashlib.sha256(f"{seed} {item.sha256}".encode()).hexdigest()


def _by_path(item: Item) -> str:
    return item.path.as_posix()
