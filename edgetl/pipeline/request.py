"""Reads what is asked for, the target, the recipes and the photos, and names it by a hash: without a library that takes
seconds to import, so that a build of what is there already is immediate."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from importlib.util import find_spec
from pathlib import Path

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

__all__ = ["TOOLCHAIN", "Request", "read_requests"]

# Whose versions a bundle names.
TOOLCHAIN = (
    "edgetl", "torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "openvino", "nvidia-modelopt", "nncf",
    "numpy", "Pillow",
)  # fmt: skip
# What a bundle depends on beside: what trains heads and what makes plans.
BESIDE = ("scikit-learn", "tensorrt")
# Weights that come with edgetl.
EMBEDDED = Path(__file__).parents[1] / "backbones" / "weights"
# Settings that say where something lies, or what it is called: its content counts.
PLACES = {"out", "data", "target", "recipe", "weights", "labels", "from_onnx"}


@dataclass(frozen=True, kw_only=True)
class Request:
    """One build as asked for: its target with what the settings change of it, and the recipes that may be tried, cheap
    first; `list_photos` lists and hashes the photos, once for all builds that share them."""

    settings: BuildSettings
    target: TargetProfile
    recipes: tuple[CalibrationRecipe, ...]
    list_photos: Callable[[], Dataset]

    @cached_property
    def dataset(self) -> Dataset:
        """The photos, listed and hashed."""
        return self.list_photos()

    @cached_property
    def key(self) -> str:
        """The hash of all that the bundle depends on: edgetl's code, what is asked, the photos and every other file,
        the machine and its libraries."""
        machine = describe_machine().model_dump(exclude={"load_1min", "date"})
        return Stage.of(
            "bundle", ("",), self.settings.model_dump(mode="json", exclude=PLACES), self.target.model_dump(),
            [recipe.model_dump() for recipe in self.recipes], self.dataset.digest, self._files,
            versions_of((*TOOLCHAIN, *BESIDE)), machine, devices_of(self.target.engine.name),
        ).key  # fmt: skip

    @property
    def _files(self) -> list[tuple[str, str]]:
        """The name and the sha256 of each file that is read beside the photos; a graph's with all that it refers to."""
        said = (self.settings.labels, self.settings.weights)
        named = [path for path in map(Path, filter(None, said)) if path.is_file()]
        files = [(path.name, sha256_of(path)) for path in (*named, *sorted(EMBEDDED.glob("*.safetensors")))]
        if self.settings.from_onnx:
            files.append((Path(self.settings.from_onnx).name, _hash_of_graph(self.settings.from_onnx)))
        return files


def read_requests(builds: Sequence[BuildSettings], progress: Progress) -> list[Request]:
    """Return what is asked for by builds that differ in `target` and `out` only.

    Raises:
        EdgetlError: a target, a recipe or a place for the bundle that does not exist or cannot be used, or a library
            that is not here.
    """
    first = builds[0]
    list_photos = cache(partial(read_dataset, first.data, first.seed, progress))
    requests = []
    asked: dict[str, str] = {}
    for settings in builds:
        target = _load_target(settings)
        if target.name in asked:
            raise SettingsError(f"--target {asked[target.name]} and {settings.target} are both {target.name}")
        asked[target.name] = settings.target
        recipes = _load_recipes(settings, target)
        requests.append(Request(settings=settings, target=target, recipes=recipes, list_photos=list_photos))
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
    import onnx

    try:
        content = onnx.load(path).SerializeToString(deterministic=True)
    except Exception:  # protobuf's, onnx's and the file system's unrelated classes; whoever builds from it says which
        content = b""
    return hashlib.sha256(content).hexdigest()
