"""Tests of edgetl/data/check.py and threads.py."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from edgetl.data import BadImage, Check, Conflict, Dataset, Duplicate, Leak, check_dataset, read_dataset, usable_photos
from edgetl.data.threads import in_threads
from edgetl.errors import DataError
from edgetl.records import Quiet

Write = Callable[..., Path]


@pytest.fixture
def root(write: Write, tmp_path: Path) -> Path:
    return write(tmp_path, {f"{split}/{label}": 4 for split in ("train", "val") for label in ("cat", "dog")})


def read(root: Path) -> Dataset:
    return read_dataset(str(root), seed=1)


def spoil(root: Path, *paths: str) -> Dataset:
    for path in paths:
        (root / path).write_text("I am a text")
    return read(root)


class TestCheckDataset:
    def test_good_photos_are_passed(self, root: Path) -> None:
        assert check_dataset(read(root)) == Check()

    def test_a_text_called_jpg_is_named_with_the_reason(self, root: Path) -> None:
        (root / "train/cat/text.jpg").write_text("I am a text")
        (bad,) = check_dataset(read(root)).bad
        assert bad.path == "train/cat/text.jpg"
        assert bad.reason.startswith("not a picture in a format that is read (JPEG, ")

    def test_a_truncated_jpeg_is_named_with_the_reason(self, root: Path) -> None:
        path = root / "train/cat/half.jpg"
        Image.effect_noise((64, 64), 50).save(path)
        path.write_bytes(path.read_bytes()[:-400])
        (bad,) = check_dataset(read(root)).bad
        assert bad.path == "train/cat/half.jpg"
        assert bad.reason.startswith("cannot be decoded: ")
        assert str(root) not in bad.reason

    def test_a_cmyk_jpeg_is_fine(self, root: Path) -> None:
        Image.new("CMYK", (8, 8), (0, 99, 99, 0)).save(root / "train/cat/print.jpg")
        assert not check_dataset(read(root)).bad

    def test_a_photo_with_too_many_pixels_is_named(self, root: Path) -> None:
        Image.new("1", (9000, 9000)).save(root / "train/cat/large.png")
        (bad,) = check_dataset(read(root)).bad
        assert bad.reason == "9000x9000 is 81 megapixels, but at most 80 are read. Make it smaller"

    def test_a_picture_in_train_and_val_is_a_leak(self, root: Path) -> None:
        for copy in ("train/cat/more.png", "val/cat/again.png", "val/cat/more.png"):
            shutil.copy(root / "train/cat/0.png", root / copy)
        assert check_dataset(read(root)).leaks == (
            Leak(train="train/cat/0.png", measured="val/cat/again.png"),
            Leak(train="train/cat/more.png", measured="val/cat/again.png"),
        )

    def test_where_there_is_a_test_split_a_picture_in_train_and_test_is_a_leak(self, root: Path) -> None:
        (root / "test/cat").mkdir(parents=True)
        shutil.copy(root / "train/cat/0.png", root / "test/cat/0.png")
        shutil.copy(root / "train/cat/1.png", root / "val/cat/again.png")
        assert check_dataset(read(root)).leaks == (Leak(train="train/cat/0.png", measured="test/cat/0.png"),)

    def test_a_picture_that_occurs_again_in_its_split_is_a_duplicate(self, root: Path) -> None:
        for name in ("a", "b"):
            shutil.copy(root / "train/cat/0.png", root / f"train/dog/{name}.png")
        check = check_dataset(read(root))
        assert check.duplicates == (
            Duplicate(split="train", paths=("train/cat/0.png", "train/dog/a.png", "train/dog/b.png")),
        )
        assert check.copies == 2
        assert not check.leaks

    def test_a_picture_under_several_labels_is_a_conflict(self, root: Path) -> None:
        for copy in ("train/cat/b.png", "val/dog/b.png"):
            shutil.copy(root / "train/cat/0.png", root / copy)
        shutil.copy(root / "train/cat/1.png", root / "train/cat/c.png")
        assert check_dataset(read(root)).conflicts == (
            Conflict(paths=("train/cat/0.png", "train/cat/b.png", "val/dog/b.png")),
        )

    def test_a_check_survives_being_saved(self, root: Path) -> None:
        for copy in ("train/cat/b.png", "val/dog/again.png"):
            shutil.copy(root / "train/cat/0.png", root / copy)
        check = check_dataset(spoil(root, "train/cat/1.png", "train/cat/2.png"))
        assert check.bad and check.leaks and check.duplicates and check.conflicts
        assert Check.model_validate_json(check.model_dump_json()) == check

    def test_checking_shows_how_many_photos_there_are(self, root: Path, lines: Any) -> None:
        check_dataset(read(root), lines)
        assert lines.counted == [("Checking photos", 16)]

    def test_every_photo_of_trashnet_can_be_read(self, assets: Path) -> None:
        if not (assets / "data" / "trashnet").is_dir():
            pytest.skip(f"needs the photos of TrashNet: no folder {assets / 'data' / 'trashnet'}")
        dataset = read(assets / "data" / "trashnet")
        assert not check_dataset(dataset).bad


class TestUsablePhotos:
    def test_a_dataset_without_bad_photos_is_returned_as_it_is(self, root: Path) -> None:
        dataset = read(root)
        assert usable_photos(dataset, check_dataset(dataset), skip_bad=False) is dataset

    def test_bad_photos_are_an_error_that_names_each(self, root: Path) -> None:
        dataset = spoil(root, "train/cat/1.png", "val/dog/2.png")
        message = (
            r"2 of 16 photos cannot be read:\n  train/cat/1\.png: not a picture.*\n  val/dog/2\.png: not a picture.*\n"
            r"Repair or remove them, or leave them out with --skip-bad"
        )
        with pytest.raises(DataError, match=message):
            usable_photos(dataset, check_dataset(dataset), skip_bad=False)

    def test_bad_photos_are_left_out_on_request(self, root: Path) -> None:
        dataset = spoil(root, "train/cat/1.png", "val/dog/2.png")
        left = usable_photos(dataset, check_dataset(dataset), skip_bad=True)
        gone = {item.path.as_posix() for item in dataset.items} - {item.path.as_posix() for item in left.items}
        assert gone == {"train/cat/1.png", "val/dog/2.png"}

    def test_of_many_bad_photos_twenty_are_named(self, write: Write, tmp_path: Path) -> None:
        dataset = read(write(tmp_path, {"cat": 40, "dog": 40}))
        bad = tuple(BadImage(path=item.path.as_posix(), reason="broken") for item in dataset.items[:23])
        with pytest.raises(DataError, match=r"(\n  cat/\d+\.png: broken){20}\n  and 3 more\nRepair"):
            usable_photos(dataset, Check(bad=bad), skip_bad=False)

    @pytest.mark.parametrize("skip", [True, False])
    def test_more_than_half_bad_is_an_error_even_when_skipping(self, skip: bool, root: Path) -> None:
        dataset = spoil(
            root, *(f"train/{label}/{n}.png" for label in ("cat", "dog") for n in range(4)), "val/cat/0.png"
        )
        with pytest.raises(
            DataError, match=r"9 of 16 photos cannot be read, more than half:\n(.*\n)*Is this the right"
        ):
            usable_photos(dataset, check_dataset(dataset), skip_bad=skip)

    def test_half_bad_can_be_skipped(self, root: Path) -> None:
        dataset = spoil(
            root,
            *(f"{split}/{label}/{n}.png" for split in ("train", "val") for label in ("cat", "dog") for n in range(2)),
        )
        assert len(usable_photos(dataset, check_dataset(dataset), skip_bad=True).items) == 8

    def test_skipping_does_not_empty_a_class(self, write: Write, root: Path) -> None:
        write(root, {"train/fox": 4})
        dataset = spoil(root, *(f"train/dog/{n}.png" for n in range(4)))
        with pytest.raises(DataError, match=r"4 of 20 .*Without them the class 'dog' has no photo in train: add some"):
            usable_photos(dataset, check_dataset(dataset), skip_bad=True)

    def test_skipping_does_not_leave_a_single_class(self, root: Path) -> None:
        dataset = spoil(root, *(f"train/dog/{n}.png" for n in range(4)))
        with pytest.raises(DataError, match=r"Without them fewer than two classes are left: add photos of dog"):
            usable_photos(dataset, check_dataset(dataset), skip_bad=True)

    def test_skipping_does_not_change_what_is_measured_on(self, write: Write, root: Path) -> None:
        write(root, {"test/cat": 1})
        dataset = spoil(root, "test/cat/0.png")
        with pytest.raises(DataError, match=r"Without them test is empty: add photos to measure on"):
            usable_photos(dataset, check_dataset(dataset), skip_bad=True)

    def test_training_photos_that_are_measured_on_are_left_out(self, root: Path) -> None:
        shutil.copy(root / "val/cat/0.png", root / "train/cat/again.png")
        dataset = read(root)
        left = usable_photos(dataset, check_dataset(dataset), skip_bad=False)
        gone = {item.path.as_posix() for item in dataset.items} - {item.path.as_posix() for item in left.items}
        assert gone == {"train/cat/again.png"}

    def test_a_class_whose_training_photos_are_all_measured_on_is_an_error(self, root: Path) -> None:
        (root / "train/fox").mkdir()
        shutil.copy(root / "val/cat/0.png", root / "train/fox/0.png")
        dataset = read(root)
        message = "1 training photos are measured on too, and so left out of training. Without them the class 'fox'"
        with pytest.raises(DataError, match=message):
            usable_photos(dataset, check_dataset(dataset), skip_bad=False)


def test_results_come_in_the_order_of_what_was_given() -> None:
    assert in_threads(lambda number: number * 2, range(100), "Doubling", Quiet()) == list(range(0, 200, 2))


def test_the_first_error_stops_what_has_not_begun() -> None:
    begun, failed = [], threading.Event()

    def work(number: int) -> None:
        begun.append(number)
        if number == 0:
            raise DataError("0: bad")
        # The others wait until the first error has reached the caller, or has failed to.
        failed.wait(30)

    class Seen(Quiet):
        def track(self, items, what, total):  # type: ignore[no-untyped-def]
            try:
                yield from items
            finally:
                failed.set()

    with pytest.raises(DataError, match="0: bad"):
        in_threads(work, range(5000), "Failing", Seen())
    assert len(begun) < 5000
