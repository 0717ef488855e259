"""What README.md tells a reader to type exists: verbs, flags, make targets, files, Python names."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

import edgetl
from edgetl.cli.app import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL)


def commands(program: str) -> list[str]:
    lines = [line for language, block in BLOCKS if language in {"", "sh"} for line in block.splitlines()]
    return [line.split("#")[0].strip() for line in lines if line.startswith(f"{program} ")]


def test_readme_shows_the_commands_it_is_read_for() -> None:
    assert commands("edgetl")
    assert commands("make")


def test_no_figure_is_left_to_fill_in() -> None:
    assert not re.search(r"@@|TODO|TBD", README)


@pytest.mark.parametrize("line", commands("edgetl"))
def test_every_edgetl_command_in_the_readme_names_a_verb_and_flags_that_exist(line: str) -> None:
    verbs = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # a group, by construction
    words = shlex.split(line)[1:]
    assert words[0] in verbs
    known = {name for parameter in verbs[words[0]].params for name in parameter.opts}
    assert [word for word in words if word.startswith("--") and word not in known] == []


@pytest.mark.parametrize("line", commands("make"))
def test_every_make_command_in_the_readme_is_a_target(line: str) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert line.split()[1] in targets


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#:]+)\)", README))
def test_every_file_that_the_readme_links_is_there(link: str) -> None:
    assert (ROOT / link).exists()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"from edgetl import ([\w, ]+)", README))))
def test_every_python_name_in_the_readme_is_public(name: str) -> None:
    assert [each for each in name.split(", ") if each not in edgetl.__all__] == []
