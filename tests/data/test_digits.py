"""Tests of edgetl/data/digits.py and of the reader of the word digits."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgetl.data import digits as digits_module
from edgetl.data import read_dataset
from edgetl.errors import MissingError

Write = Callable[..., Path]


class TestDigits:
    @pytest.fixture
    def empty_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("EDGETL_CACHE", str(tmp_path / "cache"))
        return tmp_path / "cache"

    @pytest.fixture(scope="class")
    @staticmethod
    def _needs_scikit_learn() -> None:
        pytest.importorskip("sklearn", reason="digits come with scikit-learn, which is not installed")

    def test_digits_are_real_photos_with_a_fixed_fifth_of_each_class_in_test(self, _needs_scikit_learn: None) -> None:
        dataset = read_dataset("digits", seed=1)
        assert dataset.labels == tuple("0123456789")
        assert len(dataset.items) == 1797
        assert dataset.evaluation == "test"
        assert not dataset.of("val")
        for label in range(10):
            splits = Counter(item.split for item in dataset.items if item.label == label)
            assert splits["test"] == (splits["test"] + splits["train"]) // 5
        assert read_dataset("digits", seed=2).digest == dataset.digest

    def test_digits_are_grey_with_values_scaled_to_255(self, _needs_scikit_learn: None) -> None:
        from sklearn.datasets import load_digits

        dataset = read_dataset("digits", seed=1)
        expected = load_digits().images
        for item in dataset.items[::100]:
            with Image.open(dataset.path_of(item)) as photo:
                assert photo.mode == "L"
                assert np.abs(np.asarray(photo) * (16 / 255) - expected[int(item.path.stem)]).max() < 0.04

    def test_no_digit_is_in_train_and_test_at_once(self, _needs_scikit_learn: None) -> None:
        dataset = read_dataset("digits", seed=1)
        assert not {item.sha256 for item in dataset.of("train")} & {item.sha256 for item in dataset.of("test")}

    def test_the_cache_is_used_the_second_time_without_scikit_learn(
        self, empty_cache: Path, _needs_scikit_learn: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = read_dataset("digits", seed=1)
        monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
        assert read_dataset("digits", seed=1) == first
        assert [folder.name for folder in empty_cache.iterdir()] == ["digits-1"]

    def test_a_write_that_fails_leaves_nothing_and_says_where_to_go(
        self, empty_cache: Path, _needs_scikit_learn: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(digits_module, "_write", fail)
        with pytest.raises(MissingError, match=r"cannot be written: No space left on device\. Set EDGETL_CACHE to a"):
            read_dataset("digits", seed=1)
        assert not list(empty_cache.iterdir())

    def test_a_second_process_that_was_first_is_no_error(
        self, empty_cache: Path, _needs_scikit_learn: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = digits_module.digits_folder()
        hidden = whole.with_name("hidden")
        whole.rename(hidden)
        write = digits_module._write

        def write_late(*args: object) -> None:
            write(*args)  # type: ignore[arg-type]
            hidden.rename(whole)

        monkeypatch.setattr(digits_module, "_write", write_late)
        assert digits_module.digits_folder() == whole
        assert [folder.name for folder in empty_cache.iterdir()] == ["digits-1"]

    def test_a_missing_scikit_learn_is_named_with_the_pip_command(
        self, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
        with pytest.raises(
            MissingError, match=r"scikit-learn is needed to read the data set digits .*'edgetl\[train\]'"
        ):
            read_dataset("digits", seed=1)

    def test_a_folder_called_digits_goes_first(
        self, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(tmp_path, {"digits/cat": 2, "digits/dog": 2})
        monkeypatch.chdir(tmp_path)
        assert read_dataset("digits", seed=1).labels == ("cat", "dog")
