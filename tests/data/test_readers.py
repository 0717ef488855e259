"""Tests of edgetl/data/readers.py and scan.py: class folders, and folders that are none."""

from __future__ import annotations

import hashlib
import os
import shutil
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


class TestFlatFolder:
    def test_a_fifth_of_each_class_becomes_val(self, write: Write, tmp_path: Path) -> None:
        dataset = read(write(tmp_path, {"dog": 10, "cat": 20}))
        assert dataset.labels == ("cat", "dog")
        assert Counter((item.label, item.split) for item in dataset.items) == {
            (0, "train"): 16,
            (0, "val"): 4,
            (1, "train"): 8,
            (1, "val"): 2,
        }

    def test_items_are_sorted_by_path_and_carry_the_hash_of_their_file(self, write: Write, tmp_path: Path) -> None:
        dataset = read(write(tmp_path, {"dog": 3, "cat": 3}))
        paths = [item.path.as_posix() for item in dataset.items]
        assert paths == sorted(paths)
        for item in dataset.items:
            assert item.sha256 == hashlib.sha256(dataset.path_of(item).read_bytes()).hexdigest()

    def test_the_same_seed_gives_the_same_dataset_and_another_seed_another(self, write: Write, tmp_path: Path) -> None:
        write(tmp_path, {"dog": 20, "cat": 20})
        assert read(tmp_path) == read(tmp_path)
        assert read(tmp_path, seed=1).digest != read(tmp_path, seed=2).digest

    def test_a_copy_elsewhere_has_the_same_digest(self, write: Write, tmp_path: Path) -> None:
        write(tmp_path / "one", {"dog": 9, "cat": 9})
        shutil.copytree(tmp_path / "one", tmp_path / "two")
        assert read(tmp_path / "one").digest == read(tmp_path / "two").digest

    def test_photos_in_folders_below_a_class_belong_to_it(self, write: Write, tmp_path: Path) -> None:
        dataset = read(write(tmp_path, {"cat": 1, "cat/indoors/2024": 2, "dog": 2}))
        assert [item.path.as_posix() for item in dataset.items if item.label == 0] == [
            "cat/0.png",
            "cat/indoors/2024/0.png",
            "cat/indoors/2024/1.png",
        ]

    @pytest.mark.parametrize("suffix", ["jpg", "JPEG", "png", "WebP", "bmp", "gif", "tif", "TIFF"])
    def test_a_photo_is_known_by_its_suffix_in_any_case(self, suffix: str, write: Write, tmp_path: Path) -> None:
        write(tmp_path, {"cat": 2, "dog": 2})
        (tmp_path / "cat" / f"more.{suffix}").write_bytes(b"not looked at yet")
        assert f"cat/more.{suffix}" in splits_of(read(tmp_path))

    def test_hidden_files_and_folders_are_passed_over(self, write: Write, tmp_path: Path, lines: Any) -> None:
        write(tmp_path, {"cat": 2, "dog": 2, ".git": 2, "cat/.thumbnails": 2})
        (tmp_path / "cat" / "._0.png").write_bytes(b"what macOS leaves")
        (tmp_path / ".hidden.png").write_bytes(b"")
        assert len(read_dataset(str(tmp_path), 1, lines).items) == 4
        assert not lines.said

    def test_what_is_left_out_is_said(self, write: Write, tmp_path: Path, lines: Any) -> None:
        write(tmp_path, {"cat": 2, "dog": 2})
        for name in ("cat/notes.txt", "cat/more.TXT", "dog/LICENSE", "stray.png", "README.md"):
            (tmp_path / name).write_text("x")
        read_dataset(str(tmp_path), 1, lines)
        assert lines.said == [
            f"{tmp_path}: left out: "
            "2 files ending in .txt, 1 files without a suffix, 1 photos outside the class folders"
        ]

    def test_reading_shows_how_many_files_there_are(self, write: Write, tmp_path: Path, lines: Any) -> None:
        read_dataset(str(write(tmp_path, {"cat": 2, "dog": 3})), 1, lines)
        assert lines.counted == [("Reading photos", 5)]

    def test_a_class_folder_may_be_a_link(self, write: Write, tmp_path: Path) -> None:
        write(tmp_path, {"elsewhere/cats": 3, "photos/dog": 3})
        (tmp_path / "photos" / "cat").symlink_to(tmp_path / "elsewhere" / "cats")
        dataset = read(tmp_path / "photos")
        assert dataset.labels == ("cat", "dog")
        assert len(dataset.items) == 6

    def test_a_link_to_a_folder_above_itself_is_not_followed_forever(self, write: Write, tmp_path: Path) -> None:
        write(tmp_path, {"cat": 2, "dog": 2})
        (tmp_path / "cat" / "again").symlink_to(tmp_path / "cat")
        assert len(read(tmp_path).items) == 4

    def test_a_class_may_be_called_train(self, write: Write, tmp_path: Path) -> None:
        assert read(write(tmp_path, {"bus": 2, "train": 2, "test": 2})).labels == ("bus", "test", "train")

    def test_one_class_is_not_enough(self, write: Write, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"one class, 'cat', but at least two are needed\. Expected <class>/"):
            read(write(tmp_path, {"cat": 3}))

    def test_a_class_without_photos_is_named(self, write: Write, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"dog: the class has no photos\. Add some, or remove the folder"):
            read(write(tmp_path, {"cat": 3, "dog": 0, "fox": 3}))

    def test_a_folder_without_photos_is_told_which_layout_is_expected(self, tmp_path: Path) -> None:
        with pytest.raises(
            DataError, match=r"no photos in class folders, found nothing that counts\. Expected <class>/"
        ):
            read(tmp_path)

    def test_photos_of_another_kind_or_place_are_counted_in_the_error(self, tmp_path: Path) -> None:
        (tmp_path / "cat").mkdir()
        for name in ("cat/1.heic", "cat/2.HEIC", "stray.jpg"):
            (tmp_path / name).write_bytes(b"x")
        with pytest.raises(DataError, match=r"found 2 files ending in \.heic, 1 photos outside the class folders\."):
            read(tmp_path)

    def test_classes_of_one_photo_leave_none_to_measure_on(self, write: Write, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"one photo a class, so none can be held out to measure on\. Add photos"):
            read(write(tmp_path, {"cat": 1, "dog": 1}))

    def test_a_broken_link_is_named(self, write: Write, tmp_path: Path) -> None:
        write(tmp_path, {"cat": 2, "dog": 2})
        (tmp_path / "cat" / "gone.jpg").symlink_to(tmp_path / "nowhere")
        with pytest.raises(DataError, match=r"gone\.jpg: is a broken link or no ordinary file\. Remove it"):
            read(tmp_path)

    def test_a_file_that_fails_while_it_is_read_is_named(
        self, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(path: Path) -> bytes:
            raise OSError(5, "Input/output error", str(path))

        write(tmp_path, {"cat": 2, "dog": 2})
        monkeypatch.setattr(Path, "read_bytes", fail)
        with pytest.raises(DataError, match=r"\.png: cannot be read: Input/output error\. Check its permissions"):
            read(tmp_path)

    def test_a_folder_that_cannot_be_listed_is_named(
        self, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(path: Path) -> None:
            raise PermissionError(13, "Permission denied", str(path))

        write(tmp_path, {"cat": 2, "dog": 2})
        monkeypatch.setattr(os, "scandir", fail)
        with pytest.raises(DataError, match=r"cannot be read: Permission denied\. Check the folder's permissions"):
            read(tmp_path)

    @pytest.mark.parametrize("name", [b"caf\xe9", b"two\nlines"])
    def test_a_name_that_no_report_could_hold_is_refused(self, name: bytes, write: Write, tmp_path: Path) -> None:
        write(tmp_path, {"cat": 2})
        (tmp_path / os.fsdecode(name)).mkdir()
        with pytest.raises(DataError, match=r"the name '.*\\.*' is not UTF-8 or holds control characters\. Rename"):
            read(tmp_path)

    def test_names_in_any_script_are_fine(self, write: Write, tmp_path: Path) -> None:
        assert read(write(tmp_path, {"猫": 2, "chien à poil": 2})).labels == ("chien à poil", "猫")


class TestNoFolder:
    def test_a_folder_that_does_not_exist_is_named_with_the_layouts(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"nowhere: no such folder\. Name a folder of photos, or digits\. Expected"):
            read(tmp_path / "nowhere")

    @pytest.mark.parametrize("word", ["digit", "Digits", "digts"])
    def test_a_word_like_digits_is_answered_with_it(
        self, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(DataError, match=rf"{word}: no such folder\. Did you mean digits"):
            read_dataset(word, seed=1)

    def test_a_file_is_not_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "photos.zip").write_bytes(b"")
        with pytest.raises(DataError, match=r"photos\.zip: is a file, but a folder of photos is needed\. Unpack it"):
            read(tmp_path / "photos.zip")

    def test_an_empty_name_does_not_mean_the_working_folder(
        self, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(write(tmp_path, {"cat": 2, "dog": 2}))
        with pytest.raises(DataError, match=r"an empty name: no such folder\. Name a folder"):
            read_dataset("", seed=1)
