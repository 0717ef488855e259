"""Tests of edgetl/data/dataset.py."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetl.data import Dataset, Item, Split, hold_out
from edgetl.errors import SettingsError


def make_item(name: str, label: int = 0, split: Split = "train", sha256: str | None = None) -> Item:
    return Item(path=Path(name), label=label, split=split, sha256=sha256 or name)


def make_items(*counts: int) -> list[Item]:
    return [make_item(f"{label}/{n}.jpg", label) for label, count in enumerate(counts) for n in range(count)]


def make_dataset(*items: Item, root: str = "/photos") -> Dataset:
    return Dataset(root=Path(root), labels=("cat", "dog"), items=items)


def test_of_returns_the_items_of_one_split_in_order() -> None:
    items = make_item("b"), make_item("v", split="val"), make_item("c")
    assert make_dataset(*items).of("train") == (items[0], items[2])


def test_results_are_measured_on_test_if_there_is_one_and_on_val_if_not() -> None:
    assert make_dataset(make_item("a", split="val"), make_item("b", split="test")).evaluation == "test"
    assert make_dataset(make_item("a", split="val")).evaluation == "val"


def test_an_item_lies_below_the_root() -> None:
    assert make_dataset().path_of(make_item("cat/1.jpg")) == Path("/photos/cat/1.jpg")


def test_without_removes_these_items_and_keeps_the_labels() -> None:
    items = make_items(2, 2)
    left = make_dataset(*items).without(items[:2])
    assert left.items == tuple(items[2:])
    assert left.labels == ("cat", "dog")


def test_the_digest_does_not_depend_on_where_the_root_lies() -> None:
    items = make_items(2, 2)
    assert make_dataset(*items).digest == make_dataset(*items, root="/elsewhere").digest


@pytest.mark.parametrize("change", [{"path": Path("x")}, {"label": 1}, {"split": "val"}, {"sha256": "x"}])
def test_the_digest_depends_on_every_field_of_an_item(change: dict[str, object]) -> None:
    item = make_item("a")
    assert make_dataset(item).digest != make_dataset(dataclasses.replace(item, **change)).digest


def test_the_digest_depends_on_the_labels() -> None:
    dataset = make_dataset(make_item("a"))
    assert dataset.digest != dataclasses.replace(dataset, labels=("cat", "fox")).digest


def test_hold_out_takes_the_same_share_of_every_class() -> None:
    rest, held = hold_out(make_items(100, 50, 10), 0.2, seed=1)
    assert [sum(item.label == label for item in held) for label in range(3)] == [20, 10, 2]
    assert len(rest) == 128


def test_hold_out_takes_one_of_each_class_of_two_and_none_of_a_class_of_one() -> None:
    rest, held = hold_out(make_items(2, 1), 0.2, seed=1)
    assert [item.label for item in held] == [0]
    assert sorted(item.label for item in rest) == [0, 1]


def test_hold_out_leaves_one_of_each_class_however_large_the_share() -> None:
    rest, _ = hold_out(make_items(2, 5), 0.99, seed=1)
    assert [item.label for item in rest] == [0, 1]


def test_hold_out_depends_on_the_seed() -> None:
    items = make_items(50, 50)
    assert hold_out(items, 0.2, seed=1) == hold_out(items, 0.2, seed=1)
    assert hold_out(items, 0.2, seed=1) != hold_out(items, 0.2, seed=2)


@given(st.randoms(use_true_random=False))
def test_hold_out_does_not_depend_on_the_order_of_the_items(shuffler: random.Random) -> None:
    items = make_items(20, 7)
    shuffled = list(items)
    shuffler.shuffle(shuffled)
    assert hold_out(shuffled, 0.3, seed=1) == hold_out(items, 0.3, seed=1)


def test_a_new_file_name_does_not_move_a_photo_to_the_other_side() -> None:
    items = make_items(20, 20)
    renamed = [dataclasses.replace(item, path=Path(f"new-{n}.jpg")) for n, item in enumerate(items)]
    held = {item.sha256 for item in hold_out(items, 0.2, seed=1)[1]}
    assert {item.sha256 for item in hold_out(renamed, 0.2, seed=1)[1]} == held


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 12)), max_size=40), st.floats(0.01, 0.99), st.integers(0, 9)
)
def test_hold_out_parts_the_items_and_keeps_copies_together(
    drawn: list[tuple[int, int]], share: float, seed: int
) -> None:
    items = [make_item(f"{n}.jpg", label, sha256=f"{label} {copy}") for n, (label, copy) in enumerate(drawn)]
    rest, held = hold_out(items, share, seed)
    assert sorted([*rest, *held], key=str) == sorted(items, key=str)
    for label in range(3):
        pictures = {item.sha256 for item in items if item.label == label}
        sides = [{item.sha256 for item in side if item.label == label} for side in (rest, held)]
        if len(pictures) > 1:
            assert all(sides)
            assert not sides[0] & sides[1]


def test_copies_are_parted_only_where_a_class_holds_nothing_else() -> None:
    items = [make_item(f"{n}.jpg", sha256="same") for n in range(4)]
    rest, held = hold_out(items, 0.2, seed=1)
    assert (len(rest), len(held)) == (3, 1)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, 20, float("nan")])
def test_a_share_outside_of_zero_to_one_is_refused(share: float) -> None:
    with pytest.raises(SettingsError, match=r"must lie between 0 and 1, found .*\. Give 0\.2 for one photo in five"):
        hold_out(make_items(5, 5), share, seed=1)
