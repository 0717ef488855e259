"""The steps that make a core graph and prove that it computes the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from edgetl.bench import answer_all
from edgetl.bundle import Rung, write_file
from edgetl.data import image_batches
from edgetl.errors import ExportError, ParityError, SessionError
from edgetl.export import (
    EXPORTERS,
    MAX_RELATIVE_ERROR,
    WAYS,
    CoreGraph,
    CoreSession,
    adopt_graph,
    check_rung,
    export_graph,
    find_parted_module,
    measure_parity,
)
from edgetl.finetune import Classifier, as_input, classifier_logits
from edgetl.pipeline.ladder import LOOKED_AT
from edgetl.pipeline.networks import trained_by
from edgetl.pipeline.plan import BATCH, CORE, EXPECTED, Plan
from edgetl.pipeline.results import Exported
from edgetl.pipeline.stages import Stage, write_record
from edgetl.records import FloatArray, Progress

__all__ = ["adopted", "exported", "qat_exported"]


def exported(plan: Plan, progress: Progress, folder: Path) -> None:
    """Export the trained network to the core graph, by the first exporter whose graph computes the same."""
    _export(plan, plan.trained.tuned, plan.original, progress, folder)


def qat_exported(plan: Plan, progress: Progress, folder: Path) -> None:
    """Export what quantization-aware training left, in float: it is quantized as any other graph."""
    _export(plan, plan.qat, "the network after quantization-aware training", progress, folder)


def adopted(plan: Plan, progress: Progress, folder: Path) -> None:
    """Make the core graph of a classifier that was trained elsewhere, in the first way that computes the same."""
    foreign = plan.graph
    if foreign is None:
        raise LookupError("the network is trained here")
    batches = image_batches(plan.photos.usable, plan.photos.proving, plan.borderless, BATCH)
    expected = np.concatenate([foreign.run(images) for images in batches])
    ways: dict[str, Callable[[], CoreGraph]] = {way: partial(adopt_graph, foreign, way) for way in WAYS}
    try:
        _leave_first(plan, ways, expected, plan.original, progress, folder)
    except ParityError as error:
        if foreign.batch is None:
            raise
        raise ParityError(
            f"{error}. The file takes {foreign.batch} photos at once, edgetl any number: export it with a free batch"
        ) from error


def _export(plan: Plan, stage: Stage, trained: str, progress: Progress, folder: Path) -> None:
    """Export the network that a stage left, which is called so."""
    classifier = trained_by(stage, plan)
    on_cpu = replace(plan.bench(progress), device=torch.device("cpu"))
    expected = classifier_logits(classifier, plan.photos.proving, plan.borderless, on_cpu)
    ways: dict[str, Callable[[], CoreGraph]] = {
        exporter: partial(export_graph, classifier, plan.borderless, exporter) for exporter in EXPORTERS
    }
    find_layer = partial(_parted_module, plan, classifier)
    _leave_first(plan, ways, expected, trained, progress, folder, find_layer)


def _leave_first(
    plan: Plan,
    ways: Mapping[str, Callable[[], CoreGraph]],
    expected: FloatArray,
    original: str,
    progress: Progress,
    folder: Path,
    find_layer: Callable[[CoreGraph], str] | None = None,
) -> None:
    """Write the first core graph that computes what it was made of.

    Args:
        plan: whose `photos.proving` prove it.
        ways: to make it, in order of preference, by name.
        expected: the original's logits for these photos.
        original: what it was made of, in words.
        progress: told what fails.
        folder: to write into.
        find_layer: finds the first layer of the original that a graph does not compute.

    Raises:
        ParityError: none does; says why of each.
    """
    failures: list[str] = []
    for way, make in ways.items():
        try:
            graph = make()
            core = graph.model.SerializeToString(deterministic=True)
            batches = image_batches(plan.photos.usable, plan.photos.proving, graph.preprocess, BATCH)
            what = f"proving the {graph.exporter} graph"
            logits = answer_all({"core": CoreSession(core)}, batches, len(expected), what, progress)["core"]
            rung = Rung(
                name="core",
                answered_by=f"the {graph.exporter} graph",
                against=original,
                parity=measure_parity(expected, logits),
            )
            check_rung(rung, find_layer=partial(find_layer, graph) if find_layer else None)
        except (ExportError, ParityError, SessionError) as error:
            failures.append(f"{way}: {error}")
            progress.say(failures[-1])
            continue
        write_file(folder / CORE, core)
        np.save(folder / EXPECTED, expected, allow_pickle=False)
        record = Exported(exporter=graph.exporter, refused=tuple(failures), preprocess=graph.preprocess, rung=rung)
        write_record(folder, "exported", record)
        return
    raise ParityError(f"no core graph computes what {original} does: {'; '.join(failures)}")


def _parted_module(plan: Plan, classifier: Classifier, graph: CoreGraph) -> str:
    """Return the first layer of a trained network that a core graph does not compute."""
    items = plan.photos.proving[:LOOKED_AT]
    (photos,) = image_batches(plan.photos.usable, items, plan.borderless, LOOKED_AT)
    (images,) = image_batches(plan.photos.usable, items, graph.preprocess, LOOKED_AT)
    planes = as_input(photos, plan.borderless, torch.device("cpu"))
    core = graph.model.SerializeToString(deterministic=True)
    return find_parted_module(classifier.cpu(), planes, core, images, MAX_RELATIVE_ERROR)
