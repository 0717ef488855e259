"""Plans a build: reads what was asked for, and names each stage by the hash of all that its output depends on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from edgetl.backbones import WeightsChoice, choose_weights
from edgetl.bench import describe_machine, versions_of
from edgetl.data import Dataset
from edgetl.errors import SettingsError
from edgetl.export import ForeignGraph, InputSpec, read_foreign
from edgetl.finetune import pick_device
from edgetl.options import TuneOptions
from edgetl.pipeline.photos import Photos
from edgetl.pipeline.plan import EXPORTING, LINE, Plan
from edgetl.pipeline.request import Request, read_requests
from edgetl.pipeline.settings import BuildSettings
from edgetl.pipeline.stages import Stage
from edgetl.pipeline.training import Training
from edgetl.records import Progress

__all__ = ["make_plan", "make_plans", "plans_of"]


def make_plan(settings: BuildSettings, progress: Progress) -> Plan:
    """Return the plan of a build: the photos are listed and hashed, nothing else is done; raises as `make_plans`."""
    return make_plans([settings], progress)[0]


def make_plans(builds: Sequence[BuildSettings], progress: Progress) -> list[Plan]:
    """Return the plans of builds that differ in `target` and `out` only: the photos are listed and hashed once.

    Raises:
        EdgetlError: what was asked for does not exist, is not here, or cannot be used.
    """
    return plans_of(read_requests(builds, progress))


def plans_of(requests: Sequence[Request]) -> list[Plan]:
    """Return the plans of what `read_requests` gives; raises as `make_plans`."""
    first = requests[0].settings
    graph = read_foreign(Path(first.from_onnx), _spec_of(first)) if first.from_onnx else None
    device = pick_device(first.device)
    network = graph or choose_weights(first.backbone, first.weights, first.seed)
    dataset = requests[0].ground.dataset
    if graph:
        dataset = dataset.labelled(_labels_of(first, graph, dataset))
    return [_make_plan(request, network, device, dataset) for request in requests]


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
    labels, said = graph.labels, "Say --labels FILE"
    if settings.labels:
        path = Path(settings.labels)
        if not path.is_file():
            raise SettingsError(f"--labels {path}: no such file. Give a text file with a class a line")
        said = f"Mend {path}"
        labels = tuple(line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip())
    if labels is None:
        labels = dataset.labels
    if len(labels) != graph.classes or len(set(labels)) != len(labels):
        raise SettingsError(
            f"{graph.name} tells {graph.classes} classes apart, but there are {len(set(labels))} different labels. "
            f"{said}: a class a line, in the order of the graph's outputs"
        )
    return labels


def _make_plan(request: Request, network: ForeignGraph | WeightsChoice, device: torch.device, dataset: Dataset) -> Plan:
    settings, target, recipes = request.settings, request.target, request.recipes
    tools = versions_of(("torch", "onnx", "onnxscript", "onnxruntime"))
    halved = any("fp16" in each for each in target.engine.precisions)
    modelopt = ("nvidia-modelopt",) if halved or target.engine.name == "tensorrt" else ()
    nncf = ("nncf",) if any(recipe.method == "nncf" for recipe in recipes) else ()
    engines = versions_of(("onnx", "onnxruntime", target.engine.name, *modelopt, *nncf))
    readers = versions_of(("numpy", "Pillow"))
    check = Stage.of("check", ("data", "runtime/preprocess"), dataset.digest, readers)
    shared = ("records", "metrics", "options", "outcomes", "bundle", "data", "runtime", *LINE)
    training: Training | None = None
    graph: ForeignGraph | None = None
    if isinstance(network, ForeignGraph):
        graph = network
        parts = (settings.seed, settings.skip_bad)
        decoded = Stage.of("decoded", shared, check, graph.preprocess.model_dump(), parts)
        wanted = (graph.name, graph.identity, graph.channels, graph.mean, graph.std)
        exported = Stage.of("adopted", EXPORTING, decoded, wanted, tools)
    else:
        trainers = {**versions_of(("torch", "torchvision", "scikit-learn", "scipy")), "device": device.type}
        view = Stage.of(
            "view", (*shared, "backbones", "finetune"), check, trainers, settings.backbone, network.record.identity,
            settings.image_size, settings.fit, settings.seed, settings.skip_bad,
        )  # fmt: skip
        frozen = Stage.of("frozen", (), view, settings.head, settings.views)
        asked = settings.model_dump(include=set(TuneOptions.model_fields))
        tuned = Stage.of("tuned", (), frozen, settings.lr, asked)
        decoded = Stage.of("decoded", (), view)
        exported = Stage.of("exported", EXPORTING, tuned, tools)
        training = Training(weights=network, device=device, view=view, frozen=frozen, tuned=tuned)
    machine = describe_machine().model_dump(exclude={"load_1min", "date"})
    return Plan(
        request=request, key=request.key, recipe=recipes[0], float_layers=(), aware=False,
        engines=engines, photos=Photos(settings=settings, dataset=dataset, check=check), training=training,
        graph=graph, decoded=decoded, exported=exported, reference=Stage.of("reference", (), exported, machine),
    )  # fmt: skip
