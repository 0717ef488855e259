"""Plans a build: reads what was asked for, and names each stage by the hash of all that its output depends on."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch

from edgetl.backbones import WeightsChoice, choose_weights
from edgetl.bench import describe_machine, versions_of
from edgetl.bundle import check_output
from edgetl.data import Dataset, read_dataset
from edgetl.errors import MissingError, SettingsError, missing_library
from edgetl.export import ForeignGraph, InputSpec, read_foreign
from edgetl.finetune import pick_device
from edgetl.pipeline.photos import Photos
from edgetl.pipeline.plan import EXPORTING, LINE, Plan
from edgetl.pipeline.settings import BuildSettings
from edgetl.pipeline.stages import Stage
from edgetl.pipeline.training import Training
from edgetl.recipe import CalibrationRecipe, load_recipe
from edgetl.records import Progress
from edgetl.target import ENGINE_KINDS, TargetProfile, load_target

__all__ = ["make_plan", "make_plans"]


def make_plan(settings: BuildSettings, progress: Progress) -> Plan:
    """Return the plan of a build: the photos are listed and hashed, nothing else is done; raises as `make_plans`."""
    return make_plans([settings], progress)[0]


def make_plans(builds: Sequence[BuildSettings], progress: Progress) -> list[Plan]:
    """Return the plans of builds that differ in `target` and `out` only: the photos are listed and hashed once.

    Raises:
        EdgetlError: what was asked for does not exist, is not here, or cannot be used.
    """
    first = builds[0]
    targets = [_load_target(settings) for settings in builds]
    asked: dict[str, str] = {}
    for settings, target in zip(builds, targets, strict=True):
        if target.name in asked:
            raise SettingsError(f"--target {asked[target.name]} and {settings.target} are both {target.name}")
        asked[target.name] = settings.target
    graph = read_foreign(Path(first.from_onnx), _spec_of(first)) if first.from_onnx else None
    device = pick_device(first.device)
    dataset = read_dataset(first.data, first.seed, progress)
    if graph:
        dataset = dataset.labelled(_labels_of(first, graph, dataset))
    network = graph or choose_weights(first.backbone, first.weights, first.seed)
    return [
        _make_plan(settings, target, network, device, dataset) for settings, target in zip(builds, targets, strict=True)
    ]


def _spec_of(settings: BuildSettings) -> InputSpec:
    """Return what a user says of how a graph wants its photos."""
    return InputSpec(
        side=settings.image_size,
        fit="crop" if settings.fit == "auto" else settings.fit,
        crop_share=settings.crop_share or 1.0,
        mean=settings.mean,
        std=settings.std,
        channels=settings.channels,
        labelled=settings.labels is not None,
    )


def _labels_of(settings: BuildSettings, graph: ForeignGraph, dataset: Dataset) -> tuple[str, ...]:
    """Return the graph's classes in the order of its outputs: by the user's file, by the graph's own, or, where there
    are as many, those of the photos."""
    labels = graph.labels
    if settings.labels:
        path = Path(settings.labels)
        if not path.is_file():
            raise SettingsError(f"--labels {path}: no such file. Give a text file with a class a line")
        labels = tuple(line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip())
    if labels is None:
        labels = dataset.labels
    if len(labels) != graph.classes or len(set(labels)) != len(labels):
        raise SettingsError(
            f"{graph.name} tells {graph.classes} classes apart, but there are {len(set(labels))} different labels. Say "
            "--labels FILE: a class a line, in the order of the graph's outputs"
        )
    return labels


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


def _load_recipes(settings: BuildSettings, target: TargetProfile, adopted: bool) -> tuple[CalibrationRecipe, ...]:
    """Return the recipes that a build may try; `adopted` says that its network was trained elsewhere."""
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
    if diverse and adopted:
        raise SettingsError(
            f"recipe {diverse[0]} takes diverse photos, by the features of the frozen stage, which a network that was "
            "trained elsewhere has not. Take balanced or random ones"
        )
    return recipes


def _make_plan(
    settings: BuildSettings,
    target: TargetProfile,
    network: ForeignGraph | WeightsChoice,
    device: torch.device,
    dataset: Dataset,
) -> Plan:
    recipes = _load_recipes(settings, target, isinstance(network, ForeignGraph))
    tools = versions_of(("torch", "onnx", "onnxscript", "onnxruntime"))
    halved = any("fp16" in each for each in target.engine.precisions)
    modelopt = ("nvidia-modelopt",) if halved or target.engine.name == "tensorrt" else ()
    nncf = ("nncf",) if any(recipe.method == "nncf" for recipe in recipes) else ()
    engines = versions_of(("onnx", "onnxruntime", target.engine.name, *modelopt, *nncf))
    readers = versions_of(("numpy", "Pillow"))
    check = Stage.of("check", ("data", "runtime/preprocess"), dataset.digest, readers)
    shared = ("records", "metrics", "bundle", "data", "runtime", *LINE)
    training: Training | None = None
    graph: ForeignGraph | None = None
    if isinstance(network, ForeignGraph):
        graph = network
        parts = (settings.seed, settings.skip_bad)
        decoded = Stage.of("decoded", shared, check, graph.preprocess.model_dump(), parts)
        wanted = (graph.name, graph.identity, graph.channels, graph.mean, graph.std)
        exported = Stage.of("adopted", EXPORTING, decoded, wanted, tools)
    else:
        trainers = {**versions_of(("torch", "torchvision", "scikit-learn")), "device": device.type}
        view = Stage.of(
            "view", (*shared, "backbones", "finetune"), check, trainers, settings.backbone, network.record.identity,
            settings.image_size, settings.fit, settings.seed, settings.skip_bad,
        )  # fmt: skip
        frozen = Stage.of("frozen", (), view)
        tuned = Stage.of("tuned", (), frozen, settings.epochs, settings.lr)
        decoded = Stage.of("decoded", (), view)
        exported = Stage.of("exported", EXPORTING, tuned, tools)
        training = Training(weights=network, device=device, view=view, frozen=frozen, tuned=tuned)
    machine = describe_machine().model_dump(exclude={"load_1min", "date"})
    return Plan(
        settings=settings, target=target, recipes=recipes, recipe=recipes[0], float_layers=(), aware=False,
        engines=engines, photos=Photos(settings=settings, dataset=dataset, check=check), training=training,
        graph=graph, decoded=decoded, exported=exported, reference=Stage.of("reference", (), exported, machine),
    )  # fmt: skip
