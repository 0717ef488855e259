"""Tests of edgetl/data/readers.py: split.csv, and the folders train, val and test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgetl.data import Dataset, read_dataset
from edgetl.errors import DataError

Write = Callable[..., Path]


def read(root: Path, seed: int = 1) -> Dataset:
    return read_dataset(str(root), seed)


def splits_of(dataset: Dataset) -> dict[str, str]:
    return {item.path.as_posix(): item.split for item in dataset.items}


def write_table(root: Path, *lines: str) -> None:
    (root / "split.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


class TestSplitFolders:
    def test_the_folders_are_the_splits(self, write: Write, tmp_path: Path) -> None:
        write(tmp_path, {f"{split}/{label}": 2 for split in ("train", "val", "test") for label in ("cat", "dog")})
        dataset = read(tmp_path)
        assert dataset.labels == ("cat", "dog")
        assert {path: path.split("/")[0] for path in splits_of(dataset)} == splits_of(dataset)
        assert dataset.evaluation == "test"

    def test_a_missing_val_is_held_out_of_train(self, write: Write, tmp_path: Path) -> None:
        dataset = read(write(tmp_path, {"train/cat": 10, "train/dog": 10}))
        assert Counter((item.label, item.split) for item in dataset.items) == {
            (label, split): count for label in (0, 1) for split, count in (("train", 8), ("val", 2))
        }

    def test_where_there_is_test_nothing_is_taken_from_train(self, write: Write, tmp_path: Path) -> None:
        dataset = read(write(tmp_path, {"train/cat": 5, "train/dog": 5, "test/cat": 3}))
        assert [len(dataset.of(split)) for split in ("train", "val", "test")] == [10, 0, 3]
        assert all(item.path.parts[0] == "test" for item in dataset.of("test"))

    def test_a_class_of_val_may_be_empty(self, write: Write, tmp_path: Path) -> None:
        dataset = read(write(tmp_path, {"train/cat": 2, "train/dog": 2, "val/cat": 1, "val/dog": 0}))
        assert len(dataset.of("val")) == 1

    @pytest.mark.parametrize("split", ["val", "test"])
    def test_a_class_that_is_not_in_train_is_named(self, split: str, write: Write, tmp_path: Path) -> None:
        write(tmp_path, {"train/cat": 2, "train/dog": 2, f"{split}/fox": 1})
        with pytest.raises(DataError, match=rf"{split}: the class 'fox' is not in train/ \(cat, dog\)\. Add photos"):
            read(tmp_path)

    def test_a_class_without_photos_in_train_is_named(self, write: Write, tmp_path: Path) -> None:
        write(tmp_path, {"train/cat": 2, "train/dog": 0, "val/cat": 1, "val/dog": 1})
        with pytest.raises(DataError, match=r"train/dog: the class has no photos\. Add some, or remove the folder"):
            read(tmp_path)

    def test_an_empty_val_is_refused(self, write: Write, tmp_path: Path) -> None:
        (write(tmp_path, {"train/cat": 2, "train/dog": 2}) / "val").mkdir()
        with pytest.raises(DataError, match=r"val: holds no photos in class folders\. Add some, or remove the folder"):
            read(tmp_path)

    def test_a_split_of_another_name_is_refused(self, write: Write, tmp_path: Path) -> None:
        write(tmp_path, {"train/cat": 2, "train/dog": 2, "valid/cat": 1})
        with pytest.raises(
            DataError, match=r"valid/ stands beside train/, but the splits are called train, val and test"
        ):
            read(tmp_path)

    def test_photos_without_class_folders_are_not_taken_for_classes_train_and_test(
        self, write: Write, tmp_path: Path
    ) -> None:
        with pytest.raises(DataError, match=r"train: no photos in class folders, found 3 photos outside the class"):
            read(write(tmp_path, {"train": 3, "test": 3}))

    def test_splits_without_train_are_refused(self, write: Write, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"has val/ and test/ but no train/\. Add it\. Expected"):
            read(write(tmp_path, {"val/cat": 3, "test/cat": 3}))

    def test_one_class_in_train_is_not_enough(self, write: Write, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"train: one class, 'cat', but at least two are needed"):
            read(write(tmp_path, {"train/cat": 3}))


class TestSplitFile:
    LINES = ("path,split", "cat/0.png,train", "dog/0.png,train", "cat/1.png,val")

    @pytest.fixture
    def root(self, write: Write, tmp_path: Path) -> Path:
        return write(tmp_path, {"cat": 3, "dog": 3})

    def test_the_table_says_which_photos_are_in_which_split(self, root: Path) -> None:
        write_table(root, *self.LINES)
        assert splits_of(read(root)) == {"cat/0.png": "train", "cat/1.png": "val", "dog/0.png": "train"}

    def test_the_table_goes_before_folders_called_train(self, write: Write, root: Path) -> None:
        write(root, {"train/cat": 2, "train/dog": 2})
        write_table(root, *self.LINES)
        assert read(root).labels == ("cat", "dog")

    def test_the_seed_changes_nothing(self, root: Path) -> None:
        write_table(root, *self.LINES)
        assert read(root, seed=1) == read(root, seed=2)

    def test_a_byte_order_mark_and_blank_lines_are_fine(self, root: Path) -> None:
        (root / "split.csv").write_text("\ufeff" + "\r\n\r\n".join(self.LINES), encoding="utf-8")
        assert len(read(root).items) == 3

    def test_columns_that_are_not_used_are_said(self, root: Path, lines: Any) -> None:
        write_table(root, "path,label,split", "cat/0.png,x,train", "dog/0.png,x,train", "dog/1.png,x,val")
        read_dataset(str(root), 1, lines)
        assert lines.said == [f"{root / 'split.csv'}: not used: label. The class is the first folder of the path"]

    @pytest.mark.parametrize(
        ("header", "message"),
        [
            ("path,set", "line 1: the column 'split' is missing, found path, set. The first line must be path,split"),
            ("file,split", "line 1: the column 'path' is missing, found file, split"),
            ("", "line 1: the column 'path' is missing, found nothing"),
        ],
    )
    def test_a_missing_column_is_named(self, header: str, message: str, root: Path) -> None:
        (root / "split.csv").write_text(header)
        with pytest.raises(DataError, match=message):
            read(root)

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("cat/2.png,training", r"line 5: split is 'training'\. Write train, val or test"),
            ("cat/2.png", r"line 5: split is ''\. Write train, val or test"),
            ("cat/9.png,train", r"line 5: cat/9\.png does not exist in .*\. Correct the path, or remove the line"),
            ("/cat/2.png,train", r"line 5: /cat/2\.png leaves the folder\. Write the path from .*, without \.\."),
            ("cat/../../2.png,train", r"line 5: cat/\.\./\.\./2\.png leaves the folder\."),
            ("2.png,train", r"line 5: '2\.png' lies in no class folder\. Write <class>/2\.png"),
            (",train", r"line 5: '' lies in no class folder\. Write <class>/photo\.jpg"),
            ("cat/2.txt,train", r"line 5: cat/2\.txt is no photo by its suffix\. Read are \.bmp, "),
            ("./cat/0.png,val", r"line 5: cat/0\.png is named twice\. Remove one of the lines"),
            ("cat/2.png,train,x", r"line 5: more cells than columns\. Quote a path with a comma"),
            ('"cat/2\n.png",train', r"the name 'cat/2\\n\.png' is not UTF-8 or holds control characters"),
        ],
    )
    def test_a_wrong_line_is_named(self, line: str, message: str, root: Path) -> None:
        write_table(root, *self.LINES, line)
        with pytest.raises(DataError, match=message):
            read(root)

    @pytest.mark.parametrize("content", [b"path,split\ncaf\xe9/1.png,train\n", b'path,split\n"cat"x,train\n'])
    def test_what_is_no_table_is_refused(self, content: bytes, root: Path) -> None:
        (root / "split.csv").write_bytes(content)
        with pytest.raises(
            DataError, match=r"split\.csv: cannot be read as a UTF-8 table: .*\. Save it as CSV in UTF-8"
        ):
            read(root)

    def test_a_table_without_photos_is_refused(self, root: Path) -> None:
        write_table(root, "path,split")
        with pytest.raises(DataError, match=r"names no photo\. Add a line such as cat/1\.jpg,train for each"):
            read(root)

    def test_a_class_that_is_not_in_train_is_named(self, root: Path) -> None:
        write_table(root, "path,split", "cat/0.png,train", "dog/0.png,val")
        with pytest.raises(DataError, match=r"the class 'dog' has no photo in train\. Mark some of its lines train"):
            read(root)

    def test_one_class_is_not_enough(self, root: Path) -> None:
        write_table(root, "path,split", "cat/0.png,train", "cat/1.png,val")
        with pytest.raises(DataError, match=r"one class, 'cat', but at least two are needed"):
            read(root)

    def test_a_table_with_nothing_to_measure_on_is_refused(self, root: Path) -> None:
        write_table(root, "path,split", "cat/0.png,train", "dog/0.png,train")
        with pytest.raises(DataError, match=r"no line says val or test, so nothing is left to measure on"):
            read(root)


def test_trashnet_is_read_as_its_table_says(assets: Path) -> None:
    root = assets / "data" / "trashnet"
    if not root.is_dir():
        pytest.skip(f"needs the photos of TrashNet: no folder {root}")
    dataset = read(root)
    assert dataset.labels == ("cardboard", "glass", "metal", "paper", "plastic", "trash")
    assert (len(dataset.of("train")), len(dataset.of("val"))) == (2022, 505)
    assert dataset.evaluation == "val"
