"""Tests of edgetl/export/input_spec.py: what a classifier trained elsewhere says of its photos and classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgetl.errors import GraphError
from edgetl.export import InputSpec, read_foreign
from tests.export.test_adopt import MEAN, SPEC, network, pytestmark, write

__all__ = ["pytestmark"]


class TestMetadata:
    def test_onnxs_own_words_for_pixels_are_understood(self, tmp_path: Path) -> None:
        words = {"Image.NominalPixelRange": "Normalized_1_1", "Image.BitmapPixelFormat": "Bgr8"}
        found = read_foreign(write(tmp_path, network(), **words), InputSpec())
        assert (found.mean, found.std, found.channels) == ((0.5,) * 3, (0.5,) * 3, "bgr")

    def test_mean_and_std_may_be_named(self, tmp_path: Path) -> None:
        path = write(tmp_path, network(), mean="[0.1, 0.2, 0.3]", std="[1, 2, 3]")
        found = read_foreign(path, InputSpec())
        assert (found.mean, found.std) == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))

    def test_the_user_goes_before_the_file(self, tmp_path: Path) -> None:
        path = write(tmp_path, network(), mean="[0.1, 0.2, 0.3]", std="[1, 2, 3]")
        assert read_foreign(path, SPEC).mean == MEAN

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("labels", '["a", "b", "c"]'),
            ("names", "{0: 'a', 1: 'b', 2: 'c'}"),
            ("classes", "('a', 'b', 'c')"),
            ("labels", "a\nb\nc"),
            ("labels", "a, b, c"),
            ("labels", '{"c": 2, "a": 0, "b": 1}'),
        ],
    )
    def test_labels_are_read(self, key: str, value: str, tmp_path: Path) -> None:
        assert read_foreign(write(tmp_path, network(), **{key: value}), SPEC).labels == ("a", "b", "c")

    def test_digits_are_called_by_their_numbers(self, tmp_path: Path) -> None:
        assert read_foreign(write(tmp_path, network(), classes="0,1,2"), SPEC).labels == ("0", "1", "2")

    def test_a_mere_count_names_nothing(self, tmp_path: Path) -> None:
        assert read_foreign(write(tmp_path, network(), classes="3"), SPEC).labels is None
        assert read_foreign(write(tmp_path, network(), names="3", classes="a,b,c"), SPEC).labels == ("a", "b", "c")

    @pytest.mark.parametrize(
        "value", ["one two", '["a", "b"]', "[1, 2]", "[[1], 2, 3]", "{", '{"a": 0, "b": 1}', "{0: []}"]
    )
    def test_labels_that_do_not_fit_ask_for_others(self, value: str, tmp_path: Path) -> None:
        path = write(tmp_path, network(), labels=value)
        with pytest.raises(
            GraphError, match=r"names classes in its metadata under 'labels', but not 3 of them .*--labels"
        ):
            read_foreign(path, SPEC)
        assert read_foreign(path, replace(SPEC, labelled=True)).labels is None
