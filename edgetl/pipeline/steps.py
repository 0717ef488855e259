"""The work of each stage: reads what the stages before it left, writes its own into the folder it is given."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from edgetl.bench import answer_all, describe_machine, interleave
from edgetl.bundle import Artifact, write_file
from edgetl.cache import cache_folder
from edgetl.compile import compile_graph
from edgetl.data import Item, balanced, check_dataset, image_batches, load_image
from edgetl.errors import ExportError, ParityError, SessionError, TrainingError
from edgetl.export import EXPORTERS, check_parity, export_graph, measure_parity
from edgetl.finetune import (
    Classifier,
    LinearHead,
    choose_view,
    classifier_logits,
    fit_head,
    tune,
    write_features,
)
from edgetl.metrics import PairedResult, accuracy, compare_paired, confusion_matrix, macro_f1, wilson_interval
from edgetl.pipeline.plan import Plan
from edgetl.pipeline.results import CompiledFile, Exported, Frozen, Judged, Measured, Quantized, Tuned
from edgetl.pipeline.stages import write_record
from edgetl.quantize import Candidate, allowed_drop, decide, quantize_graph, select_items
from edgetl.records import FloatArray, IntArray, Precision, Progress
from edgetl.runtime import Session, open_artifact

__all__ = ["STEPS", "open_compiled"]

# Photos that parity is measured on, at the most.
PARITY_IMAGES = 128
BATCH = 16
# Turns and calls a turn of the speed comparison: enough for a p90.
ROUNDS, PER_ROUND = 10, 20


def check(plan: Plan, progress: Progress, folder: Path) -> None:
    """Open every photo; name the bad ones and the pictures that are in train and held out at once."""
    write_record(folder, "check", check_dataset(plan.dataset, progress))


def view(plan: Plan, progress: Progress, folder: Path) -> None:
    """Choose how photos are fitted to the square, and whether a mirrored photo is the same thing."""
    train, _, _ = plan.parts
    fit = None if plan.settings.fit == "auto" else plan.settings.fit
    choice = choose_view(plan.backbone, train, fit, plan.settings.seed, plan.bench(progress))
    write_record(folder, "view", choice)


def frozen(plan: Plan, progress: Progress, folder: Path) -> None:
    """Run every photo through the frozen backbone once, and fit the head on the features."""
    started = time.perf_counter()
    parts = plan.parts
    items = [item for part in parts for item in part]
    features = write_features(folder / "features.npy", plan.backbone, items, plan.photo, plan.bench(progress))
    ends = np.cumsum([len(part) for part in parts])
    train, held, unseen = np.split(features, ends[:-1])
    train_labels, held_labels, unseen_labels = (labels_of(part) for part in parts)
    head = fit_head(train, train_labels, held, held_labels)
    tensors = {"weight": torch.from_numpy(head.weight), "bias": torch.from_numpy(head.bias)}
    write_file(folder / "head.safetensors", save_tensors(tensors))
    record = Frozen(
        strength=head.strength,
        held_out_accuracy=accuracy(head.logits(held).argmax(axis=1), held_labels),
        accuracy=accuracy(head.logits(unseen).argmax(axis=1), unseen_labels),
        seconds=time.perf_counter() - started,
    )
    write_record(folder, "frozen", record)


def tuned(plan: Plan, progress: Progress, folder: Path) -> None:
    """Unfreeze the network and train it at a low rate; keep the state that answers best when held out."""
    started = time.perf_counter()
    train, held, _ = plan.parts
    classifier = _headed(plan)
    try:
        history = tune(classifier, train, held, plan.photo, plan.tuning, plan.bench(progress))
    except TrainingError as error:
        kept = cache_folder() / "rescued" / f"{plan.tuned.key[:20]}.safetensors"
        write_file(kept, save_tensors(_state_of(classifier)))
        raise TrainingError(f"{error}. That state is kept in {kept}") from error
    write_file(folder / "classifier.safetensors", save_tensors(_state_of(classifier)))
    write_record(folder, "tuned", Tuned(history=history, seconds=time.perf_counter() - started))


def exported(plan: Plan, progress: Progress, folder: Path) -> None:
    """Export the trained network, compile the float artifact, and prove on its engine that it computes the same."""
    classifier = _headed(plan)
    classifier.load_state_dict(load_tensors((plan.tuned.folder / "classifier.safetensors").read_bytes()))
    classifier.requires_grad_(False).eval()
    _, held, _ = plan.parts
    photos = balanced(held, PARITY_IMAGES, plan.settings.seed)
    expected = classifier_logits(
        classifier, photos, plan.photo, replace(plan.bench(progress), device=torch.device("cpu"))
    )
    failures = []
    for exporter in EXPORTERS:
        try:
            graph = export_graph(classifier, plan.photo, exporter)
            compiled = compile_graph(graph.model.SerializeToString(), plan.target.engine.name)
            artifact = CompiledFile.of("float", compiled)
            write_file(folder / artifact.name, compiled.content)
            session = open_compiled(plan, folder, artifact, "fp32")
            batches = image_batches(plan.usable, photos, graph.preprocess, BATCH)
            parity = measure_parity(expected, answer_all(session, batches, len(photos), "parity", progress))
            check_parity(parity, f"the graph of torch's {exporter} exporter")
        except (ExportError, ParityError, SessionError) as error:
            failures.append(str(error))
            progress.say(f"{exporter} exporter: {error}")
            continue
        write_file(folder / "core.onnx", graph.model.SerializeToString(deterministic=True))
        record = Exported(artifact=artifact, exporter=graph.exporter, preprocess=graph.preprocess, parity=parity)
        write_record(folder, "exported", record)
        return
    raise ParityError("no exporter gave a graph that computes what was trained: " + "; ".join(failures))


def quantized(plan: Plan, progress: Progress, folder: Path) -> None:
    """Quantize the core graph on training photos, and compile the INT8 artifact."""
    train, _, _ = plan.parts
    items = select_items(train, plan.recipe)
    if len(items) < plan.recipe.images:
        progress.say(f"recipe {plan.recipe.name} asks for {plan.recipe.images} photos; all {len(items)} are used")
    how = plan.exported.read("exported", Exported).preprocess
    core = onnx.load(plan.exported.folder / "core.onnx")
    batches = progress.track(
        image_batches(plan.usable, items, how, BATCH), "calibrating, batches", -(-len(items) // BATCH)
    )
    graph = quantize_graph(core, batches, plan.recipe)
    core_int8 = graph.SerializeToString(deterministic=True)
    write_file(folder / "core.onnx", core_int8)
    compiled = compile_graph(core_int8, plan.target.engine.name)
    artifact = CompiledFile.of("int8", compiled)
    write_file(folder / artifact.name, compiled.content)
    write_record(folder, "quantized", Quantized(artifact=artifact, calibration_images=len(items)))


def judged(plan: Plan, progress: Progress, folder: Path) -> None:
    """Measure every artifact's speed and answers on its engine, and decide which ships."""
    _, held, unseen = plan.parts
    float_stage = plan.exported.read("exported", Exported)
    how = float_stage.preprocess
    sessions: dict[Precision, Session] = {
        "fp32": open_compiled(plan, plan.exported.folder, float_stage.artifact, "fp32")
    }
    sizes: dict[Precision, int] = {"fp32": (plan.exported.folder / float_stage.artifact.name).stat().st_size}
    if plan.quantized is not None:
        artifact = plan.quantized.read("quantized", Quantized).artifact
        sessions["int8"] = open_compiled(plan, plan.quantized.folder, artifact, "int8")
        sizes["int8"] = (plan.quantized.folder / artifact.name).stat().st_size
    items = (*held, *unseen)
    answers = {
        precision: answer_all(
            session, image_batches(plan.usable, items, how, BATCH), len(items), f"answering in {precision}", progress
        )
        for precision, session in sessions.items()
    }
    image = load_image(plan.usable.path_of(held[0]), how)[None]
    progress.say("measuring latency")
    latencies = interleave({name: _caller(session, image) for name, session in sessions.items()}, ROUNDS, PER_ROUND)
    held_labels, unseen_labels = labels_of(held), labels_of(unseen)
    chosen_by = {name: logits[: len(held)].argmax(axis=1) for name, logits in answers.items()}
    counted = {name: logits[len(held) :].argmax(axis=1) for name, logits in answers.items()}
    candidates = {name: Candidate(latency_p50_ms=latencies[name].p50_ms, answers=chosen_by[name]) for name in sessions}
    verdict = decide(candidates["fp32"], candidates.get("int8"), held_labels, plan.target)
    measured = {}
    for name in sessions:
        confusion = confusion_matrix(counted[name], unseen_labels, len(plan.usable.labels))
        hits = int(np.trace(confusion))
        measured[name] = Measured(
            precision=name,
            size_bytes=sizes[name],
            latency=latencies[name],
            held_out_accuracy=accuracy(chosen_by[name], held_labels),
            accuracy=hits / len(unseen),
            accuracy_interval=wilson_interval(hits, len(unseen)),
            macro_f1=macro_f1(confusion),
            confusion=tuple(tuple(int(count) for count in row) for row in confusion),
            parity=float_stage.parity if name == "fp32" else measure_parity(answers["fp32"], answers[name]),
        )
    shipped = measured[verdict.precision]
    loss = compare_paired(counted["fp32"], counted[verdict.precision], unseen_labels)
    record = Judged(
        verdict=verdict,
        measured=tuple(measured.values()),
        missed=_missed(plan, shipped, loss),
        machine=describe_machine(),
    )
    write_record(folder, "judged", record)


STEPS: dict[str, Callable[[Plan, Progress, Path], None]] = {
    step.__name__: step for step in (check, view, frozen, tuned, exported, quantized, judged)
}


def labels_of(items: tuple[Item, ...]) -> IntArray:
    """Return the classes of the items, int64 of shape (items,)."""
    return np.array([item.label for item in items], dtype=np.int64)


def open_compiled(plan: Plan, folder: Path, artifact: CompiledFile, precision: Precision) -> Session:
    """Return a session on an artifact that a stage left, as the target's engine will run it."""
    threads = plan.target.engine.threads
    described = Artifact(
        path=artifact.name, engine=plan.target.engine.name, precision=precision, threads=threads,
        input=artifact.input, output=artifact.output,
    )  # fmt: skip
    return open_artifact((folder / artifact.name).read_bytes(), described, threads)


def _headed(plan: Plan) -> Classifier:
    tensors = load_tensors((plan.frozen.folder / "head.safetensors").read_bytes())
    strength = plan.frozen.read("frozen", Frozen).strength
    head = LinearHead(weight=tensors["weight"].numpy(), bias=tensors["bias"].numpy(), strength=strength)
    return Classifier(plan.backbone.module, head)


def _state_of(classifier: Classifier) -> dict[str, torch.Tensor]:
    return {name: tensor.cpu().contiguous() for name, tensor in classifier.state_dict().items()}


def _caller(session: Session, image: np.ndarray) -> Callable[[], FloatArray]:
    return lambda: session.run(image)


def _missed(plan: Plan, shipped: Measured, loss: PairedResult) -> tuple[str, ...]:
    """Return, in words, each bound of the target's budget that the shipped artifact misses."""
    budget, split = plan.target.budget, plan.usable.evaluation
    missed = []
    if loss.drop_points > allowed_drop(budget.accuracy_drop_points, loss.images):
        missed.append(
            f"accuracy drop {loss.drop_points:.2f} points on {split}, the budget is {budget.accuracy_drop_points:g}"
        )
    if budget.latency_ms_p50 is not None and shipped.latency.p50_ms > budget.latency_ms_p50:
        missed.append(f"latency p50 {shipped.latency.p50_ms:.2f} ms here, the budget is {budget.latency_ms_p50:g} ms")
    if budget.size_bytes is not None and shipped.size_bytes > budget.size_bytes:
        missed.append(f"size {shipped.size_bytes} bytes, the budget is {budget.size_bytes} bytes")
    return tuple(missed)
