"""Tests of edgetl/profiles.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field, ValidationError

from edgetl.errors import MissingError, RecipeError, TargetError
from edgetl.profiles import explain, load_named, profile_names, read_toml, read_toml_table
from edgetl.records import Record


class Wheel(Record):
    spokes: int = Field(gt=0)


class Bicycle(Record):
    schema_: int = Field(alias="schema")
    name: str
    gears: tuple[int, ...] = ()
    wheel: Wheel = Wheel(spokes=32)


def write(folder: Path, text: str) -> Path:
    (folder / "mine.toml").write_text(text)
    return folder / "mine.toml"


def read(folder: Path, text: str) -> Bicycle:
    return read_toml(write(folder, text), Bicycle, TargetError)


@pytest.mark.parametrize("package", ["edgetl._targets", "edgetl._calibration"])
def test_names_are_sorted_and_without_the_suffix(package: str) -> None:
    names = profile_names(package)
    assert names == tuple(sorted(names))
    assert names and not any("." in name or name.startswith("_") for name in names)


def test_sources_that_are_not_installed_say_so() -> None:
    with pytest.raises(MissingError, match=r"which hide an installed one\. .* these: pip install -e \S+$"):
        profile_names("edgetl._nothing")


class TestReadToml:
    def test_the_record_that_the_file_describes_comes_back(self, tmp_path: Path) -> None:
        found = read(tmp_path, 'schema = 1\nname = "red"\ngears = [1, 3]\n[wheel]\nspokes = 28\n')
        assert found == Bicycle(schema=1, name="red", gears=(1, 3), wheel=Wheel(spokes=28))

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(TargetError, match=r"gone\.toml: no such file"):
            read_toml(tmp_path / "gone.toml", Bicycle, TargetError)

    def test_a_folder_is_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(TargetError, match="no such file"):
            read_toml(tmp_path, Bicycle, TargetError)

    @pytest.mark.parametrize("text", ["name = ", '{"name": "json"}', "name = 'a'\nname = 'b'"])
    def test_what_is_not_toml_is_said_to_be_so(self, text: str, tmp_path: Path) -> None:
        with pytest.raises(TargetError, match=r"mine\.toml: not TOML: .*\(at "):
            read(tmp_path, text)

    def test_bytes_that_are_no_text_are_no_toml(self, tmp_path: Path) -> None:
        (tmp_path / "mine.toml").write_bytes(b"name = '\xff'")
        with pytest.raises(RecipeError, match=r"mine\.toml: not TOML: .*utf-8"):
            read_toml_table(tmp_path / "mine.toml", RecipeError)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("schema = 1", r"mine\.toml: name is missing"),
            ('schema = 1\nnam = "red"', r"mine\.toml: unknown key 'nam'\. Did you mean name"),
            ('schema = 1\nname = "red"\ngear = [1]', r"unknown key 'gear'\. Did you mean gears"),
            ('shema = 1\nschema = 1\nname = "red"', r"unknown key 'shema'\. Did you mean schema"),
            ('schema = 1\nname = "red"\nxyz = 1', r"unknown key 'xyz'\. Known: gears, name, schema, wheel\."),
            ('schema = 1\nname = "red"\n[wheel]', r"wheel\.spokes is missing"),
            ('schema = 1\nname = "red"\n[wheel]\nspoke = 28', r"unknown key 'wheel\.spoke'\. Did you mean spokes\?"),
            (
                'schema = 1\nname = "red"\n[wheel]\nspokes = 28\nspoks = 28',
                r"unknown key 'wheel\.spoks'\. Did you mean spokes\?",
            ),
            (
                'schema = 1\nname = "red"\n[wheel]\nspokes = 0',
                r"wheel\.spokes: Input should be greater than 0, found 0",
            ),
            ('schema = 1\nname = "red"\ngears = [1, "x"]', r"gears\.1: Input should be a valid integer.*, found 'x'"),
            ("schema = 1\nname = 3", r"name: Input should be a valid string, found 3"),
        ],
    )
    def test_the_first_fault_is_told_in_one_line(self, text: str, message: str, tmp_path: Path) -> None:
        with pytest.raises(TargetError, match=message) as caught:
            read(tmp_path, text)
        assert "\n" not in str(caught.value)


class TestLoadNamed:
    def test_a_name_that_ends_in_toml_is_a_file(self, tmp_path: Path) -> None:
        path = write(tmp_path, 'schema = 1\nname = "red"')
        assert load_named("edgetl._targets", str(path), Bicycle, TargetError).name == "red"

    @pytest.mark.parametrize(("error", "what"), [(TargetError, "target"), (RecipeError, "recipe")])
    def test_an_unknown_name_is_answered_in_the_words_of_its_kind(
        self, error: type[TargetError | RecipeError], what: str
    ) -> None:
        message = rf"unknown {what} 'cpuu'\. Did you mean cpu.*\? A file of your own works too: \./my-{what}\.toml"
        with pytest.raises(error, match=message):
            load_named("edgetl._targets", "cpuu", Bicycle, error)

    @pytest.mark.parametrize("name", ["../targets/cpu", "cpu/", "__init__", ""])
    def test_a_name_is_never_a_path(self, name: str) -> None:
        with pytest.raises(TargetError, match="unknown target"):
            load_named("edgetl._targets", name, Bicycle, TargetError)


def test_a_check_of_ours_is_told_in_our_words() -> None:
    from edgetl.target import TargetProfile

    said = {
        "schema": 1,
        "name": "a",
        "description": "",
        "engine": {"name": "onnxruntime", "precisions": ["bf16"]},
        "budget": {"accuracy_drop_points": 1},
    }
    with pytest.raises(ValidationError, match="precisions") as caught:
        TargetProfile.model_validate(said)
    assert explain(caught.value, TargetProfile) == (
        'engine: precisions holds "bf16", but onnxruntime here builds int8, fp16 or fp32'
    )
