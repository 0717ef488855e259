"""Writes a bundle's files from what the stages left."""

from __future__ import annotations

import shlex
import time
from pathlib import Path

import numpy as np

from edgetl.bench import versions_of
from edgetl.bundle import Accuracies, Artifact, Golden, Manifest, write_file
from edgetl.data import Check, balanced, load_image
from edgetl.finetune import ViewChoice
from edgetl.pipeline.artifacts import copy_artifact, open_written
from edgetl.pipeline.plan import Plan
from edgetl.pipeline.results import BuildReport, CompiledStage, Exported, Frozen, Judged, Quantized, Seconds, Tuned
from edgetl.pipeline.settings import BuildSettings
from edgetl.pipeline.stages import write_record
from edgetl.runtime import write_golden
from edgetl.target import ENGINE_EXTRAS

__all__ = ["compose"]

# Largest difference of a golden logit, as a share of the largest logit. Float engines differ by rounding; INT8 kernels
# of other processors round each layer their own way.
TOLERANCE = {"fp32": 1e-3, "int8": 0.05}
TOOLCHAIN = ("edgetl", "torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "openvino", "numpy", "Pillow")


def compose(plan: Plan, folder: Path, started: float) -> Manifest:
    """Return the manifest, after writing every other file of the bundle into `folder`.

    Args:
        plan: whose stages are all done.
        folder: the bundle being written.
        started: when the build began, by `time.perf_counter`.
    """
    settings, how = plan.settings, plan.exported.read("exported", Exported)
    judged = plan.judged.read("judged", Judged)
    shipped = judged.verdict.precision
    made = plan.compiled.read("compiled", CompiledStage)
    artifact = copy_artifact(plan.compiled.folder, made.of(shipped), folder, "model")
    write_file(folder / "labels.txt", "".join(f"{label}\n" for label in plan.usable.labels))
    frozen, tuned = plan.frozen.read("frozen", Frozen), plan.tuned.read("tuned", Tuned)
    train, held, unseen = plan.parts
    accuracy = Accuracies(
        split="test" if plan.usable.evaluation == "test" else "val",
        images=len(unseen),
        frozen=frozen.accuracy,
        float=judged.of("fp32").accuracy,
        shipped=judged.of(shipped).accuracy,
    )
    report = BuildReport(
        backbone=settings.backbone,
        target=plan.target.name,
        labels=plan.usable.labels,
        train_images=len(train),
        held_out_images=len(held),
        check=plan.check.read("check", Check),
        view=plan.view.read("view", ViewChoice),
        frozen=frozen,
        tuned=tuned,
        exporter=how.exporter,
        parity=made.parity,
        recipe=plan.recipe.name if plan.quantized else None,
        calibration_images=plan.quantized.read("quantized", Quantized).calibration_images if plan.quantized else 0,
        accuracy=accuracy,
        judged=judged,
        seconds=Seconds(frozen=frozen.seconds, tune=tuned.seconds, total=time.perf_counter() - started),
        seed=settings.seed,
        command=_command(settings),
    )
    write_record(folder, "report", report)
    golden = _golden(plan, folder, artifact)
    write_file(folder / "README.md", _model_card(plan, report, artifact))
    return Manifest(
        name=settings.out.resolve().name,
        task="classification",
        labels=plan.usable.labels,
        preprocess=how.preprocess,
        artifact=artifact,
        golden=golden,
        backbone=settings.backbone,
        weights=plan.weights.record,
        target=plan.target.name,
        seed=settings.seed,
        build=plan.bundle.key,
        accuracy=accuracy,
        parity=judged.of(shipped).parity,
        toolchain=versions_of(TOOLCHAIN),
        files={},
    )


def _command(settings: BuildSettings) -> str:
    """Return the command line that makes this bundle again."""
    said = settings.model_dump(mode="json", exclude_defaults=True)
    flags = [f"--{key.replace('_', '-')}" if value is True else f"--{key.replace('_', '-')} {shlex.quote(str(value))}"
             for key, value in said.items()]  # fmt: skip
    return " ".join(["edgetl build", *flags])


def _golden(plan: Plan, folder: Path, artifact: Artifact) -> Golden | None:
    items = balanced(plan.parts[2], plan.settings.golden, plan.settings.seed)
    if not items:
        return None
    how = plan.exported.read("exported", Exported).preprocess
    paths = [plan.usable.path_of(item) for item in items]
    images = np.stack([load_image(path, how) for path in paths])
    session = open_written(folder, artifact)
    # One at a time, as the device will run them.
    logits = np.concatenate([session.run(image[None]) for image in images])
    return write_golden(folder, paths, images, logits, TOLERANCE[artifact.precision] * float(np.abs(logits).max()))


def _model_card(plan: Plan, report: BuildReport, artifact: Artifact) -> str:
    """Return the bundle's README: what it is, how good, how it was made, how to run it."""
    judged, accuracy = report.judged, report.accuracy
    low, high = judged.of(artifact.precision).accuracy_interval
    rows = "\n".join(
        f"| {each.precision} | {100 * each.accuracy:.1f} % | {each.latency.p50_ms:.2f} ms | {each.size_bytes:,} |"
        for each in judged.measured
    )
    name = plan.settings.out.resolve().name
    return f"""# {name}

Tells {len(report.labels)} classes apart: {", ".join(report.labels)}.

Made by edgetl for the target `{report.target}` ({plan.target.description}) from `{report.backbone}`
({plan.weights.record.source}; licence of the weights: {plan.weights.record.licence}).

| precision | accuracy on {accuracy.split} | latency p50 | bytes |
|---|---|---|---|
{rows}

**Ships {artifact.precision}.** {judged.verdict.reason}.

- Accuracy of what ships: {100 * accuracy.shipped:.1f} % on {accuracy.images} {accuracy.split} photos that nothing was
  chosen by (95 % interval {100 * low:.1f} to {100 * high:.1f}). After the frozen stage alone:
  {100 * accuracy.frozen:.1f} %.
- How photos are fitted was chosen by cross-validation on the {report.train_images} training photos; regularisation,
  when to stop and precision on {report.held_out_images} more that were held out of training.
- Latency was measured on {judged.machine.cpu}, {judged.machine.cores} cores, one photo at a time, preprocessing apart.
- Made with `{report.command}`, seed {report.seed}.

## Use it

```
pip install 'edgetl[{ENGINE_EXTRAS[artifact.engine]}]'
edgetl verify {name}
edgetl predict {name} photo.jpg
```

```python
from edgetl import Predictor

with Predictor.open("{name}") as predictor:
    print(predictor.predict("photo.jpg").label)
```
"""
