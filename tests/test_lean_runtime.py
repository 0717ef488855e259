"""What a device needs: no training library is imported there, or has to be there at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TRAINING = ("torch", "torchvision", "onnx", "onnxscript", "sklearn", "safetensors")
# Python imports this at the start of every process, those that a process starts itself included.
SITE = f"""
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {TRAINING!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
        return None

sys.meta_path.insert(0, Refuse())
"""


@pytest.fixture
def device(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a machine on which no training library can be imported."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE)
    return {**os.environ, "PYTHONPATH": str(tmp_path / "site")}


def run(device: dict[str, str], *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, env=device, check=False, capture_output=True, text=True)


@pytest.mark.parametrize("library", TRAINING)
def test_the_device_of_these_tests_has_no_training_library(library: str, device: dict[str, str]) -> None:
    ran = run(device, "-c", f"import {library}")
    assert ran.returncode == 1
    assert f"ModuleNotFoundError: No module named '{library}'" in ran.stderr


def test_a_device_predicts(device: dict[str, str], tiny_bundle: Path, tiny_photos: tuple[Path, ...]) -> None:
    ran = run(device, "-m", "edgetl", "predict", tiny_bundle, *tiny_photos, "--json")
    assert ran.returncode == 0, ran.stderr
    assert len(json.loads(ran.stdout)["predictions"]) == len(tiny_photos)


def test_a_device_verifies(device: dict[str, str], tiny_bundle: Path) -> None:
    ran = run(device, "-m", "edgetl", "verify", tiny_bundle, "--json")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["replayed"][0]["golden"]["top1_agreement"] == 1.0


def test_a_device_benches(device: dict[str, str], tiny_bundle: Path) -> None:
    ran = run(device, "-m", "edgetl", "bench", tiny_bundle, "--seconds", "0.1", "--json")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["cold_start"]["answered_seconds"] > 0


def test_a_device_that_is_asked_to_build_says_what_to_install(device: dict[str, str], tmp_path: Path) -> None:
    ran = run(device, "-m", "edgetl", "build", "--data", tmp_path / "photos", "--out", tmp_path / "out")
    assert ran.returncode == 4
    assert "is needed to build and is not installed. Run: pip install 'edgetl[train]'" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("call", ["build(settings)", "next(build_each([settings]))"])
def test_a_device_that_is_asked_to_build_from_python_says_so_too(
    call: str, device: dict[str, str], tmp_path: Path
) -> None:
    settings = f"settings = BuildSettings(data='photos', out={str(tmp_path / 'out')!r})"
    ran = run(device, "-c", f"from edgetl import BuildSettings, build, build_each\n{settings}\n{call}")
    last = ran.stderr.splitlines()[-1]
    assert last.startswith("edgetl.errors.MissingError: ")
    assert last.endswith("is needed to build and is not installed. Run: pip install 'edgetl[train]'")


def test_importing_the_runtime_imports_no_training_library_and_no_engine() -> None:
    script = (
        "import json, sys, time\nstarted = time.perf_counter()\nimport edgetl.runtime\n"
        "print(json.dumps([time.perf_counter() - started, sorted({name.partition('.')[0] for name in sys.modules})]))"
    )
    ran = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    seconds, imported = json.loads(ran.stdout)
    print(f"import edgetl.runtime: {seconds:.2f} s")  # noqa: T201
    assert set(imported).isdisjoint({*TRAINING, "onnxruntime", "typer", "rich"})
