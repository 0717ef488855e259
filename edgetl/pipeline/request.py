"""Reads what is asked for, the target, the recipes and the photos, and names it by a hash: without a library that takes
seconds to import, so that a build of what is there already is immediate."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgetl.bench import describe_machine, versions_of
from edgetl.bundle import check_output, sha256_of
from edgetl.data import Dataset, read_dataset
from edgetl.errors import MissingError, SettingsError, missing_library
from edgetl.pipeline.settings import BuildSettings
from edgetl.pipeline.stages import Stage
from edgetl.recipe import CalibrationRecipe, load_recipe
from edgetl.records import Progress
from edgetl.runtime import devices_of
from edgetl.target import ENGINE_KINDS, TargetProfile, load_target

__all__ = ["TOOLCHAIN", "Ground", "Request", "read_requests"]

# Whose versions a bundle names.
TOOLCHAIN = (
    "edgetl", "torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "openvino", "nvidia-modelopt", "nncf",
    "numpy", "Pillow",
)  # fmt: skip
# What a bundle depends on beside: what trains heads and what makes plans.
BESIDE = ("scikit-learn", "scipy", "tensorrt")
# Settings that say where something lies, or what it is called, whose content counts; and who is told meanwhile.
PLACES = {"out", "data", "target", "recipe", "weights", "labels", "from_onnx", "log"}


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What builds share that differ in `target` and `out` only: the photos, and what else a bundle depends on."""

    settings: BuildSettings
    progress: Progress

    @cached_property
    def dataset(self) -> Dataset:
        """The photos, listed and hashed."""
        return read_dataset(self.settings.data, self.settings.seed, self.progress)

    @cached_property
    def identity(self) -> tuple[Any, ...]:
        """The photos, every other file that is read, the libraries and the machine; not where training runs, which is
        not what is asked for."""
        machine = describe_machine().model_dump(exclude={"load_1min", "date"})
        return self.dataset.digest, self._files, versions_of((*TOOLCHAIN, *BESIDE)), machine

    @property
    def _files(self) -> list[tuple[str, str | None]]:
        """The name and the sha256 of each file that is read beside the photos, None for what is no file; a graph's with
        all that it refers to."""
        named = [Path(said) for said in (self.settings.labels, self.settings.weights) if said is not None]
        files = [(path.name, sha256_of(path) if path.is_file() else None) for path in (*named, *_embedded())]
        graph = self.settings.from_onnx
        return [*files, (Path(graph).name, _hash_of_graph(graph))] if graph else files


@dataclass(frozen=True, kw_only=True)
class Request:
    """One build as asked for: its target with what the settings change of it, and the recipes that may be tried, cheap
    first, on ground that it may share."""

    settings: BuildSettings
    target: TargetProfile
    recipes: tuple[CalibrationRecipe, ...]
    ground: Ground

    @cached_property
    def key(self) -> str:
        """The hash of all that the bundle depends on: edgetl's code, what is asked, and the ground."""
        said = self.settings.model_dump(mode="json", exclude=PLACES)
        recipes = [recipe.model_dump() for recipe in self.recipes]
        devices = devices_of(self.target.engine.name)
        asked = (said, self.target.model_dump(), recipes, devices)
        return Stage.of("bundle", ("",), *asked, *self.ground.identity).key


def read_requests(builds: Sequence[BuildSettings], progress: Progress) -> list[Request]:
    """Return what is asked for by builds that differ in `target` and `out` only.

    Raises:
        EdgetlError: a target, a recipe or a place for the bundle that does not exist or cannot be used, or a library
            that is not here.
    """
    ground = Ground(settings=builds[0], progress=progress)
    requests = []
    asked: dict[str, str] = {}
    for settings in builds:
        target = _load_target(settings)
        if target.name in asked:
            raise SettingsError(f"--target {asked[target.name]} and {settings.target} are both {target.name}")
        asked[target.name] = settings.target
        recipes = _load_recipes(settings, target)
        requests.append(Request(settings=settings, target=target, recipes=recipes, ground=ground))
    if len({each.settings.out.resolve() for each in requests}) < len(requests):
        raise SettingsError(f"--out {builds[0].out} would hold several bundles. Give each a folder of its own")
    return requests


def _load_target(settings: BuildSettings) -> TargetProfile:
    """Return a build's target, after a look at whether its bundle can be made and written."""
    check_output(settings.out)
    target = load_target(settings.target)
    allowed = target.engine.precisions
    if settings.precision is not None:
        if settings.precision not in allowed:
            raise SettingsError(
                f"--precision {settings.precision} cannot be built for {target.name}, which allows {', '.join(allowed)}"
            )
        forced = target.engine.model_copy(update={"precisions": (settings.precision,)})
        target = target.model_copy(update={"engine": forced})
    ways = target.engine.precisions
    if settings.qat and (ways[0] == "fp32" or "int8" not in ways or len(ways) == 1):
        raise SettingsError(
            f"--qat is tried where INT8 loses too much and something else would ship, but {target.name} is to ship "
            f"{' or '.join(ways)}. Leave --qat away"
        )
    if settings.budget is not None:
        budget = target.budget.model_copy(update={"accuracy_drop_points": settings.budget})
        target = target.model_copy(update={"budget": budget})
    kind = ENGINE_KINDS[target.engine.name]
    needed = {kind.build_module: kind.build_extra}
    if any(precision.endswith("fp16") for precision in target.engine.precisions):
        needed["modelopt"] = "train"
    for module, extra in needed.items():
        if find_spec(module) is None:  # said before hours of training
            raise MissingError(
                f"{module} is needed to build for {target.name} and is not installed. "
                f"Run: pip install 'edgetl[{extra}]'"
            )
    if settings.log != "none" and find_spec(settings.log) is None:
        raise MissingError(f"--log {settings.log}: it is not installed. Run: pip install {settings.log}")
    if settings.out.resolve().is_relative_to(Path(settings.data).resolve()):
        raise SettingsError(
            f"--out {settings.out} lies inside --data {settings.data}: its photos would be taken for yours the next "
            "time. Choose an --out beside it"
        )
    return target


def _load_recipes(settings: BuildSettings, target: TargetProfile) -> tuple[CalibrationRecipe, ...]:
    """Return the recipes that a build may try."""
    recipes = tuple(load_recipe(name) for name in ((settings.recipe,) if settings.recipe else target.engine.recipes))
    foreign = [recipe.name for recipe in recipes if recipe.method == "nncf" and target.engine.name == "tensorrt"]
    if foreign:
        raise SettingsError(
            f"recipe {foreign[0]} quantizes by NNCF, whose Q/DQ pairs TensorRT would not fuse; {target.name} wants "
            "ModelOpt's. Take minmax, moving-average, percentile or entropy"
        )
    if any(recipe.method == "nncf" for recipe in recipes) and find_spec("nncf") is None:
        raise missing_library("nncf", "train", f"quantize for {target.name}")
    diverse = [recipe.name for recipe in recipes if recipe.select == "diverse"]
    if diverse and settings.from_onnx:
        raise SettingsError(
            f"recipe {diverse[0]} takes diverse photos, by the features of the frozen stage, which a network that was "
            "trained elsewhere has not. Take balanced or random ones"
        )
    return recipes


def _hash_of_graph(path: str) -> str:
    """Return the sha256 of a graph with its weights, which may lie in files beside it; of nothing where it cannot be
    read."""
    try:
        import onnx

        content = onnx.load(path).SerializeToString(deterministic=True)
    except Exception:  # unrelated classes, and onnx may be missing; whoever builds from it says what is wrong
        content = b""
    return hashlib.sha256(content).hexdigest()


def _embedded() -> list[Path]:
    """Return the files of weights that come with edgetl."""
    return sorted((Path(__file__).parents[1] / "backbones" / "weights").glob("*.safetensors"))
