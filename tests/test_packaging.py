"""What is installed: the wheel, its extras and the versions that CI uses."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
CHECKOUT = ["pyproject.toml", "README.md", "LICENSE", "edgetl", "targets", "calibration", "tests", "benchmarks"]
CACHES = shutil.ignore_patterns("__pycache__", "*.pyc", "*.egg-info")


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def plain(name: str) -> str:
    """Return a distribution's name as indexes compare it, from a requirement such as `Pillow>=11`."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\s\[<>=!~;]", name)[0]).lower()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """Yield the wheel that is built from the sdist of a copy of this checkout, with what is installed here."""
    work = tmp_path_factory.mktemp("packaging")
    for name in CHECKOUT:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, work / "checkout" / name, ignore=CACHES)
        else:
            (work / "checkout").mkdir(exist_ok=True)
            shutil.copy(ROOT / name, work / "checkout" / name)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(work / "out"), str(work / "checkout")]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    with zipfile.ZipFile(next((work / "out").glob("*.whl"))) as opened:
        yield opened


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(wheel.read(name).decode())


def test_the_wheel_holds_the_package_its_data_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    expected = set()
    for folder, package in {
        "edgetl": "edgetl",
        "targets": "edgetl/_targets",
        "calibration": "edgetl/_calibration",
    }.items():
        files = (path.relative_to(ROOT / folder) for path in (ROOT / folder).rglob("*") if path.is_file())
        expected |= {f"{package}/{path.as_posix()}" for path in files if path.suffix != ".pyc"}

    assert {name for name in wheel.namelist() if ".dist-info/" not in name} == expected
    assert "edgetl/py.typed" in expected


def test_the_wheel_carries_the_licence_and_its_text(wheel: zipfile.ZipFile, metadata: Message) -> None:
    licence = next(name for name in wheel.namelist() if name.endswith("/LICENSE"))

    assert wheel.read(licence) == (ROOT / "LICENSE").read_bytes()
    assert metadata["License-Expression"] == "Apache-2.0"


def test_the_wheel_installs_the_command(wheel: zipfile.ZipFile) -> None:
    name = next(name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt"))

    assert "edgetl = edgetl.cli.app:main" in wheel.read(name).decode()


def test_a_device_installs_no_training_library(metadata: Message) -> None:
    required = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]

    assert sorted({plain(line) for line in required}) == ["numpy", "pillow", "pydantic", "rich", "tomli", "typer"]


def test_every_room_is_packaged() -> None:
    rooms = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in (ROOT / "edgetl").rglob("*.py")}

    assert set(project()["tool"]["setuptools"]["packages"]) - {"edgetl._targets", "edgetl._calibration"} >= rooms


def test_every_extra_that_an_error_recommends_exists() -> None:
    extras = project()["project"]["optional-dependencies"]
    for path in (ROOT / "edgetl").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for call in ast.walk(ast.parse(text)):
            if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("missing_library"):
                named = {word.arg: word.value for word in call.keywords}
                extra = named.get("extra") or call.args[1]
                assert isinstance(extra, ast.Constant), f"{path}:{call.lineno}: the extra is not a literal"
                assert extra.value in extras, f"{path}:{call.lineno}: no extra {extra.value!r}"
        for extra_name in re.findall(r"edgetl\[([a-z]+(?:,[a-z]+)*)\]", text):
            assert set(extra_name.split(",")) <= set(extras), f"{path}: no extra {extra_name!r}"


def test_constraints_are_names_and_exact_versions_of_all_that_we_require() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = [line for line in lines if not line.startswith("#")]
    table = project()["project"]
    required = [*table["dependencies"], *(line for extra in table["optional-dependencies"].values() for line in extra)]

    assert [line for line in pinned if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line)] == []
    assert {plain(line) for line in required} - {"edgetl", "tomli"} <= {plain(line) for line in pinned}
