"""Writes a bundle's files from what the stages left."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from edgetl.bench import versions_of
from edgetl.bundle import Accuracies, Artifact, Golden, Manifest, write_file
from edgetl.data import Check, balanced
from edgetl.options import TuneOptions
from edgetl.outcomes import ViewChoice
from edgetl.pipeline.artifacts import copy_artifact, open_here, tolerance
from edgetl.pipeline.cards import model_card, on_device
from edgetl.pipeline.plan import Plan
from edgetl.pipeline.request import TOOLCHAIN
from edgetl.pipeline.results import (
    BuildReport,
    Calibrated,
    CompiledStage,
    Exported,
    Frozen,
    Judged,
    Seconds,
    Taught,
    Tried,
    Tuned,
)
from edgetl.pipeline.settings import BuildSettings
from edgetl.pipeline.stages import write_record
from edgetl.pipeline.variants import judged_of, said_of
from edgetl.runtime import PLANNED, expect, write_golden

__all__ = ["compose"]


def compose(plan: Plan, tried: Sequence[Plan], folder: Path, started: float) -> Manifest:
    """Return the manifest, after writing every other file of the bundle into `folder`.

    Args:
        plan: what ships; its stages are all done.
        tried: every plan that was judged, in order.
        folder: the bundle being written.
        started: when the build began, by `time.perf_counter`.
    """
    settings, how = plan.settings, plan.exported.read("exported", Exported)
    judged = judged_of(plan)
    shipped, photos = judged.verdict.precision, plan.photos
    artifacts = tuple(
        copy_artifact(plan.compiled.folder, artifact, folder, stem) for artifact, stem in _shipped(plan, judged)
    )
    write_file(folder / "labels.txt", "".join(f"{label}\n" for label in photos.usable.labels))
    taught = _taught(plan)
    calibrated = plan.calibrated.read("calibrated", Calibrated) if plan.calibrates else None
    accuracy = Accuracies(
        split="test" if photos.usable.evaluation == "test" else "val",
        images=len(photos.unseen),
        frozen=taught.frozen.accuracy if taught else None,
        float=judged.unseen_of("fp32").accuracy,
        shipped=judged.unseen_of(shipped).accuracy,
    )
    report = BuildReport(
        backbone=plan.backbone_name,
        target=plan.target.name,
        labels=photos.usable.labels,
        train_images=len(photos.train),
        held_out_images=len(photos.held),
        check=photos.check.read("check", Check),
        training=taught,
        exporter=how.exporter,
        refused_exports=how.refused,
        calibration=calibrated.calibration if calibrated else None,
        accuracy=accuracy,
        tried=tuple(_as_tried(each, tried) for each in tried) if plan.calibrates else (),
        way=plan.way if plan.calibrates else None,
        qat=plan.qat.read("tuned", Tuned) if plan.aware else None,
        judged=judged,
        seconds=Seconds(
            frozen=taught.frozen.seconds if taught else None,
            tune=taught.tuned.seconds if taught else None,
            total=time.perf_counter() - started,
        ),
        seed=settings.seed,
        command=_command(settings),
    )
    write_record(folder, "report", report)
    if taught:
        write_record(folder, "history", taught.tuned.history)
    golden = _golden(plan, folder, artifacts)
    write_file(folder / "README.md", model_card(plan, report, artifacts))
    if artifacts[0].engine == PLANNED:
        write_file(folder / "on_device.md", on_device(plan, artifacts))
    return Manifest(
        name=settings.out.resolve().name,
        task="classification",
        labels=photos.usable.labels,
        preprocess=how.preprocess,
        artifacts=artifacts,
        golden=golden,
        backbone=plan.backbone_name,
        weights=plan.origin,
        target=plan.target.name,
        seed=settings.seed,
        build=plan.key,
        accuracy=accuracy,
        ladder=judged.ladder,
        toolchain=versions_of(TOOLCHAIN),
        files={},
    )


def _taught(plan: Plan) -> Taught | None:
    """Return what training came to, None where the network was trained elsewhere."""
    if plan.training is None:
        return None
    return Taught(
        view=plan.training.view.read("view", ViewChoice),
        frozen=plan.training.frozen.read("frozen", Frozen),
        tuned=plan.training.tuned.read("tuned", Tuned),
    )


def _as_tried(plan: Plan, tried: Sequence[Plan]) -> Tried:
    lower = [each for each in judged_of(plan).measured if each.precision != "fp32"]
    return Tried(
        way=plan.way,
        reason=said_of(plan, tried),
        drops={each.precision: each.held_out_drop for each in lower},
        signals_db={each.precision: each.signal_db for each in lower},
    )


def _command(settings: BuildSettings) -> str:
    """Return the command line that makes this bundle again."""
    said = settings.model_dump(mode="json", exclude_defaults=True)
    words = ["edgetl", "build"]
    for key, value in sorted(said.items(), key=lambda pair: pair[0] in TuneOptions.model_fields):  # photos first
        words.append(f"--{key.replace('_', '-')}")
        if value is not True:
            words.append(",".join(map(str, value)) if isinstance(value, list) else str(value))
    return shlex.join(words)


def _shipped(plan: Plan, judged: Judged) -> Iterator[tuple[Artifact, str]]:
    """Yield the artifacts that ship, in the order in which a device tries them, each with its name in the bundle."""
    made = plan.compiled.read("compiled", CompiledStage)
    first, *rest = (plan.as_run(made.of(precision)) for precision in judged.ships)
    yield first, "model"
    for artifact in rest:
        yield artifact, f"model-{artifact.precision}" if artifact.engine == first.engine else "fallback"


def _golden(plan: Plan, folder: Path, artifacts: Sequence[Artifact]) -> Golden | None:
    """Return the manifest's entry for golden photos and what each artifact answers to them; None if none are kept."""
    items = balanced(plan.photos.unseen, plan.settings.golden, plan.settings.seed)
    if not items:
        return None
    paths = [plan.photos.usable.path_of(item) for item in items]
    images = np.concatenate(list(plan.read_kept(plan.photos.rows_of(items))))
    golden = write_golden(folder, paths, images)
    for artifact in artifacts:
        with closing(open_here(folder, artifact)) as session:
            # One at a time, as the device will run them.
            logits = np.concatenate([session.run(image[None]) for image in images])
        golden = expect(golden, folder, artifact, logits, tolerance(artifact) * float(np.abs(logits).max()))
    return golden
