from __future__ import annotations

import re

import pytest

from edgetl import errors
from edgetl.errors import EdgetlError, MissingError, missing_library, nearest

EXIT_CODES = {
    "EdgetlError": 2,
    "SettingsError": 2,
    "DataError": 2,
    "BackboneError": 2,
    "GraphError": 2,
    "TargetError": 2,
    "RecipeError": 2,
    "CalibrationError": 2,
    "BundleError": 2,
    "SessionError": 2,
    "DeviceLostError": 4,
    "TrainingError": 3,
    "ExportError": 3,
    "ParityError": 3,
    "BudgetError": 3,
    "MissingError": 4,
}


def error_classes() -> dict[str, type[EdgetlError]]:
    found = {name: value for name, value in vars(errors).items() if isinstance(value, type)}
    return {name: value for name, value in found.items() if issubclass(value, EdgetlError)}


@pytest.mark.parametrize(("name", "code"), EXIT_CODES.items())
def test_an_error_exits_with_the_code_of_its_kind(name: str, code: int) -> None:
    kind = error_classes()[name]

    with pytest.raises(EdgetlError, match="photos/cat: no photo") as caught:
        raise kind("photos/cat: no photo")

    assert caught.value.exit_code == code


def test_every_error_is_in_the_table_and_public() -> None:
    assert set(error_classes()) == set(EXIT_CODES)
    assert set(EXIT_CODES) <= set(errors.__all__)


def test_the_drawn_tree_tells_the_codes() -> None:
    drawn = re.findall(r"(\w+Error)\s+(\d)\s", errors.__doc__ or "")

    assert {name: int(code) for name, code in drawn} == EXIT_CODES


def test_a_missing_library_is_answered_with_the_pip_command() -> None:
    error = missing_library("onnx", "train", "export a network")

    assert isinstance(error, MissingError)
    assert str(error) == (
        "onnx is needed to export a network and is not installed. Run: pip install 'edgetl[train]'"
    )  # fmt: skip


def test_a_typo_is_answered_with_the_nearest_names_best_first() -> None:
    known = ["jetson-orin-nano", "jetson-orin-nx", "raspberry-pi-5"]

    assert nearest("jetson-orin-nao", known) == "Did you mean jetson-orin-nano or jetson-orin-nx?"
    assert nearest("jetson-orin-nao", known, count=1) == "Did you mean jetson-orin-nano?"


def test_a_name_like_no_other_is_answered_with_the_known_ones_sorted() -> None:
    assert nearest("xyz", ["cpu", "arm"]) == "Known: arm, cpu."
    assert nearest("xyz", []) == "None is known here."


def test_a_long_list_of_known_names_is_cut_at_twelve() -> None:
    assert nearest("?", (f"n{index:02}" for index in range(13))).endswith("n10, n11 and 1 more."), "twelve names"
    assert nearest("?", [f"n{index:02}" for index in range(12)]).endswith("n10, n11.")
