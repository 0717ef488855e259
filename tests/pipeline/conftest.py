"""Fixtures for the tests of the pipeline room; the build they share is in tests/conftest.py."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgetl.bundle import Bundle
from edgetl.pipeline import BuildSettings, Plan, make_plan, steps
from edgetl.records import Progress, Quiet


@pytest.fixture
def settings(small_build: dict[str, Any], tmp_path: Path) -> BuildSettings:
    """Return the settings of the shared build, with an `out` of the test's own."""
    return BuildSettings(**small_build, out=tmp_path / "out")


@pytest.fixture
def plan(built: Bundle, settings: BuildSettings) -> Plan:
    """Return the plan of the shared build, whose stages are done."""
    return make_plan(settings, Quiet())


@pytest.fixture(scope="session")
def asking() -> Callable[..., Plan]:
    """Return a function that gives a plan, what it was asked for changed."""

    def asking(plan: Plan, **changes: Any) -> Plan:
        return replace(plan, request=replace(plan.request, **changes))

    return asking


@pytest.fixture
def plan_of(small_build: dict[str, Any], tmp_path: Path) -> Callable[..., Plan]:
    """Return a function that plans the shared build, some settings changed."""

    def plan_of(**changed: Any) -> Plan:
        return make_plan(BuildSettings(**{**small_build, "out": tmp_path / "out", **changed}), Quiet())

    return plan_of


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every stage fail that begins to work."""

    def refuse(plan: Plan, progress: Progress, folder: Path) -> None:
        raise AssertionError(f"{folder.name} begins to work")

    for name in list(steps.STEPS):
        monkeypatch.setitem(steps.STEPS, name, refuse)


@pytest.fixture
def own_stages(built: Bundle, cache_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a cache folder of the test's own that holds what the small build left."""
    monkeypatch.setenv("EDGETL_CACHE", str(shutil.copytree(cache_base, tmp_path / "cache")))
    return tmp_path / "cache" / "stages"


@pytest.fixture
def no_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a cache folder of the test's own that holds nothing."""
    monkeypatch.setenv("EDGETL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "stages"


@pytest.fixture(scope="session")
def fingerprint() -> Callable[[Path], dict[str, str]]:
    """Return a function that gives the sha256 of a bundle's artifact, labels and golden files by name."""

    def fingerprint(folder: Path) -> dict[str, str]:
        files = [folder / "model.onnx", folder / "labels.txt", *(folder / "golden").glob("*")]
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    return fingerprint


@pytest.fixture(scope="session")
def write_target(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Return a function that writes a target and gives its path: write_target(precisions=["fp32"], size_bytes=1)."""

    def write(
        precisions: tuple[str, ...] = ("int8", "fp32"),
        engine: str = "onnxruntime",
        device: str = "cpu",
        **budget: float,
    ) -> str:
        path = tmp_path_factory.mktemp("target") / "own.toml"
        bounds = {"accuracy_drop_points": 0.5, **budget}
        path.write_text(
            'schema = 1\nname = "own"\ndescription = "a device"\n\n[engine]\n'
            f'name = "{engine}"\n'
            f'device = "{"cuda" if engine == "tensorrt" else device}"\n'
            f"precisions = {list(precisions)}\n\n[budget]\n"
            + "".join(f"{name} = {value}\n" for name, value in bounds.items())
        )
        return str(path)

    return write
