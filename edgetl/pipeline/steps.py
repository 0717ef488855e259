"""The work of each stage: reads what the stages before it left, writes its own into the folder it is given."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

import numpy as np
import onnx

from edgetl.bundle import Artifact, Rung, write_file
from edgetl.data import check_dataset, image_batches, labels_of, write_rows
from edgetl.errors import TrainingError
from edgetl.finetune import (
    choose_view,
    fit_head,
    pick_head,
    remove_checkpoint,
    tune_aware,
    write_features,
    write_views,
)
from edgetl.folders import cache_folder
from edgetl.metrics import accuracy
from edgetl.outcomes import Statistics, ViewChoice
from edgetl.pipeline.artifacts import copy_artifact, open_here, write_artifact
from edgetl.pipeline.exporting import adopted, exported, qat_exported
from edgetl.pipeline.ladder import prove_float
from edgetl.pipeline.measure import answer, answered, judged, reference
from edgetl.pipeline.networks import head_on, leave_network, state_bytes, trained_by
from edgetl.pipeline.plan import BATCH, CORE, FEATURES, HEAD, PHOTOS, REFERENCE, VIEWS, Plan
from edgetl.pipeline.results import Calibrated, Calibration, CompiledStage, Frozen, Reference
from edgetl.pipeline.stages import write_record
from edgetl.pipeline.together import checkpoint_of, train_together
from edgetl.pipeline.training import qat_tuning_of, rounding_of
from edgetl.quantize import calibrate, calibrate_equalized, quantize_for, remarks_on
from edgetl.records import FloatArray, ImageArray, Precision, Progress

__all__ = ["STEPS"]

# Training photos that decide whether equalized channels stay.
COMPARED_ON = 32


def check(plan: Plan, progress: Progress, folder: Path) -> None:
    """Open every photo; name the bad ones, and the pictures that occur twice or are trained on and measured on."""
    write_record(folder, "check", check_dataset(plan.photos.dataset, progress))


def view(plan: Plan, progress: Progress, folder: Path) -> None:
    """Choose how photos are fitted to the square, and whether a mirrored photo is the same thing."""
    train, fit = plan.photos.train, None if plan.settings.fit == "auto" else plan.settings.fit
    choice = choose_view(plan.backbone, train, fit, plan.settings.seed, plan.bench(progress))
    write_record(folder, "view", choice)


def decoded(plan: Plan, progress: Progress, folder: Path) -> None:
    """Keep the photos that targets are chosen and measured by, fitted to the square: decoded once for all targets."""
    how, kept = plan.borderless, plan.photos.kept
    batches = image_batches(plan.photos.usable, kept, how, BATCH)
    counted = progress.track(batches, "decoding, batches", -(-len(kept) // BATCH))
    write_rows(folder / PHOTOS, counted, (len(kept), how.height, how.width, 3), np.uint8)


def frozen(plan: Plan, progress: Progress, folder: Path) -> None:
    """Run every photo through the frozen backbone once, and fit the head on the features."""
    started = time.perf_counter()
    parts = (plan.photos.train, plan.photos.held, plan.photos.unseen)
    items = [item for part in parts for item in part]
    features = write_features(folder / FEATURES, plan.backbone, items, plan.borderless, plan.bench(progress))
    ends = np.cumsum([len(part) for part in parts])
    train, held, unseen = np.split(features, ends[:-1])
    train_labels, held_labels, unseen_labels = (labels_of(part) for part in parts)
    views = [train, *_views(plan, progress, folder)]
    asked = plan.settings.head
    kind = pick_head(train_labels) if asked == "auto" else asked
    head = fit_head(kind, views, train_labels, len(plan.photos.usable.labels), plan.settings.seed)
    write_file(folder / HEAD, state_bytes(head.module))
    record = Frozen(
        head=kind,
        strength=head.strength,
        held_out_accuracy=accuracy(head.logits(held).argmax(axis=1), held_labels),
        accuracy=accuracy(head.logits(unseen).argmax(axis=1), unseen_labels),
        seconds=time.perf_counter() - started,
    )
    write_record(folder, "frozen", record)


def _views(plan: Plan, progress: Progress, folder: Path) -> FloatArray:
    """Return the features of the training photos seen otherwise, shape (views, photos, features)."""
    settings, train = plan.settings, plan.photos.train
    mirror = plan.trained.view.read("view", ViewChoice).mirror
    return write_views(
        folder / VIEWS, plan.backbone, train, plan.borderless, plan.bench(progress), settings.views, mirror,
        settings.seed,
    )  # fmt: skip


def tuned(plan: Plan, progress: Progress, folder: Path) -> None:
    """Unfreeze the network and train it at a low rate; keep the state that answers best when held out. A run that was
    stopped goes on after the last epoch that was finished."""
    started = time.perf_counter()
    classifier = head_on(plan)
    try:
        history, rate = train_together(plan, classifier, progress)
    except TrainingError as error:
        kept = cache_folder() / "rescued" / f"{plan.trained.tuned.key[:20]}.safetensors"
        write_file(kept, state_bytes(classifier))
        raise TrainingError(f"{error}. That state is kept in {kept}") from error
    leave_network(folder, classifier, history, rate, started)
    remove_checkpoint(checkpoint_of(plan))


def qat(plan: Plan, progress: Progress, folder: Path) -> None:
    """Train on with weights and activations rounded as INT8 rounds them."""
    started = time.perf_counter()
    classifier = trained_by(plan.trained.tuned, plan)
    how = qat_tuning_of(plan.trained, plan.settings, classifier.backbone)
    rounding = rounding_of(plan.target.engine.name, plan.recipe)
    try:
        history = tune_aware(
            classifier, plan.photos.train, plan.photos.held, plan.borderless, how, plan.bench(progress), rounding
        )
    except TrainingError as error:
        raise TrainingError(f"--qat {plan.settings.qat}: {error}. Or build without --qat") from error
    leave_network(folder, classifier, history, how.backbone_lr, started)


def calibrated(plan: Plan, progress: Progress, folder: Path) -> None:
    """Find the range of every activation on training photos, for the precisions below float32; equalize channels where
    the recipe says so and INT8 leaves more signal then."""
    items = plan.calibration_photos
    remarks = remarks_on(items, plan.recipe, plan.photos.dataset.classes)
    for remark in remarks:
        progress.say(remark)

    def batches(what: str) -> Iterable[ImageArray]:
        read = image_batches(plan.photos.usable, items, plan.faced, BATCH)
        return progress.track(read, f"{what}, batches", -(-len(items) // BATCH))

    core = onnx.load(plan.trained_core)
    if plan.recipe.equalize:
        sample = image_batches(plan.photos.usable, items[:COMPARED_ON], plan.faced, BATCH)
        core, statistics = calibrate_equalized(core, batches, sample, plan.recipe, progress)
        write_file(folder / CORE, core.SerializeToString(deterministic=True))
    else:
        statistics = calibrate(core, batches("calibrating"), plan.recipe)
    photos = {item.path.as_posix(): item.sha256 for item in items}
    digest = hashlib.sha256("".join(f"{each}\n" for each in photos.values()).encode()).hexdigest()
    calibration = Calibration(recipe=plan.recipe.name, photos=photos, sha256=digest, remarks=remarks)
    write_record(folder, "calibrated", Calibrated(calibration=calibration, statistics=statistics))


def quantized(plan: Plan, progress: Progress, folder: Path) -> None:
    """Make the core graphs of the precisions below float32, in the way that the target's engine takes."""
    core = onnx.load(plan.lower_core)
    nothing = Statistics(ranges={}, means={})
    statistics = plan.calibrated.read("calibrated", Calibrated).statistics if plan.calibrates else nothing
    batches = image_batches(plan.photos.usable, plan.calibration_photos, plan.faced, BATCH)
    graphs = quantize_for(
        plan.target.engine.name, core, statistics, batches, plan.rounding, plan.lower_precisions, plan.float_layers
    )
    for precision, graph in graphs.items():
        write_file(folder / f"{precision}.onnx", graph.SerializeToString(deterministic=True))


def compiled(plan: Plan, progress: Progress, folder: Path) -> None:
    """Compile the core graphs for the target's engine, and prove that the float one computes the same; where that
    engine is the reference's, its artifact and its proof serve."""

    def write(core: Path, precision: Precision) -> Artifact:
        return write_artifact(folder, core.read_bytes(), precision, plan.engine_for(precision), plan.info)

    proved, engine = plan.reference.read("reference", Reference), plan.engine_for("fp32")
    rungs: tuple[Rung, ...] = ()
    if (engine.name, engine.device) == (REFERENCE.name, REFERENCE.device):
        plain = copy_artifact(plan.reference.folder, proved.artifact, folder, "fp32")
    else:
        plain = write(plan.core, "fp32")
        with closing(open_here(folder, plain)) as session:
            rows = plan.photos.rows_of(plan.photos.proving)
            rungs = (prove_float(plan, "artifact", session, answer({"fp32": session}, rows, plan, progress)["fp32"]),)
    lower = (write(plan.core_of(each), each) for each in plan.lower_precisions)
    write_record(folder, "compiled", CompiledStage(artifacts=(plain, *lower), rungs=rungs))


STEPS: dict[str, Callable[[Plan, Progress, Path], None]] = {
    step.__name__: step
    for step in (
        check, view, decoded, frozen, tuned, exported, adopted, reference, qat, qat_exported, calibrated, quantized,
        compiled, answered, judged,
    )
}  # fmt: skip
