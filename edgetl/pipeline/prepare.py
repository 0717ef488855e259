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
from edgetl.errors import MissingError, SettingsError
from edgetl.finetune import pick_device
from edgetl.pipeline.plan import LINE, MEASURING, Plan
from edgetl.pipeline.settings import BuildSettings
from edgetl.pipeline.stages import Stage
from edgetl.recipe import load_recipe
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
    weights = choose_weights(first.backbone, first.weights, first.seed)
    device = pick_device(first.device)
    dataset = read_dataset(first.data, first.seed, progress)
    return [
        _make_plan(settings, target, weights, device, dataset) for settings, target in zip(builds, targets, strict=True)
    ]


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
    kind = ENGINE_KINDS[target.engine.name]
    if find_spec(kind.build_module) is None:  # said before hours of training
        raise MissingError(
            f"{kind.build_module} is needed to build for {target.name} and is not installed. "
            f"Run: pip install 'edgetl[{kind.build_extra}]'"
        )
    if settings.out.resolve().is_relative_to(Path(settings.data).resolve()):
        raise SettingsError(
            f"--out {settings.out} lies inside --data {settings.data}: its photos would be taken for yours the next "
            "time. Choose an --out beside it"
        )
    return target


def _make_plan(
    settings: BuildSettings,
    target: TargetProfile,
    weights: WeightsChoice,
    device: torch.device,
    dataset: Dataset,
) -> Plan:
    recipes = tuple(load_recipe(name) for name in ((settings.recipe,) if settings.recipe else target.engine.recipes))
    readers = versions_of(("numpy", "Pillow"))
    trainers = {**versions_of(("torch", "torchvision", "scikit-learn")), "device": device.type}
    tools = versions_of(("torch", "onnx", "onnxscript", "onnxruntime"))
    modelopt = ("nvidia-modelopt",) if target.engine.name == "tensorrt" else ()
    engines = versions_of(("onnx", "onnxruntime", target.engine.name, *modelopt))
    check = Stage.of("check", ("data", "runtime/preprocess"), dataset.digest, readers)
    view = Stage.of(
        "view", ("records", "metrics", "bundle", "data", "runtime", "backbones", "finetune", *LINE), check, trainers,
        settings.backbone, weights.record.identity, settings.image_size, settings.fit, settings.seed, settings.skip_bad,
    )  # fmt: skip
    decoded = Stage.of("decoded", (), view)
    frozen = Stage.of("frozen", (), view)
    tuned = Stage.of("tuned", (), frozen, settings.epochs, settings.lr)
    exported = Stage.of("exported", ("export", "compile", *MEASURING), tuned, tools)
    machine = describe_machine().model_dump(exclude={"load_1min", "date"})
    reference = Stage.of("reference", (), exported, machine)
    return Plan(
        settings=settings, target=target, recipes=recipes, recipe=recipes[0], float_layers=(), engines=engines,
        dataset=dataset, weights=weights, device=device, check=check, view=view, decoded=decoded, frozen=frozen,
        tuned=tuned, exported=exported, reference=reference,
    )  # fmt: skip
