"""What a bundle says in words: the model card, and what to type on a device that makes its own plan."""

from __future__ import annotations

from collections.abc import Sequence

from edgetl import __version__
from edgetl.bundle import Artifact
from edgetl.pipeline.plan import Plan
from edgetl.pipeline.results import BuildReport, Judged
from edgetl.runtime import PLANNED
from edgetl.target import ENGINE_KINDS

__all__ = ["model_card", "on_device"]

# What is good to know of an engine beside.
_NEXT_STEPS = {
    "tensorrt": """
TensorRT makes a plan of the model on each device; until it is there, ONNX Runtime answers: see `on_device.md`. INT8
graphs keep their weights in float, beside what quantizes them; the plan holds them in 8 bits.
""",
    "openvino": """
`model.xml` opens in OpenVINO's own programs too, with nothing else: it takes whole photos, BGR of any size, fits them
as edgetl does, and says its labels to OpenVINO Model API (`pip install openvino_model_api`).
""",
}


def model_card(plan: Plan, report: BuildReport, artifacts: Sequence[Artifact]) -> str:
    """Return the bundle's README: what it is, how good, how it was made, how to run it."""
    judged, accuracy, artifact = report.judged, report.accuracy, artifacts[0]
    low, high = judged.unseen_of(artifact.precision).accuracy_interval
    rows = "\n".join(
        f"| {each.precision} | {_percent(each.held_out_accuracy)} | {_percent(each.accuracy)} | "
        f"{_milliseconds(each.p50_ms)} | {each.size_bytes:,} |"
        for each in judged.measured
    )
    name, version = plan.settings.out.resolve().name, __version__
    extras = ",".join(dict.fromkeys(ENGINE_KINDS[each.engine].extra for each in artifacts))
    return f"""# {name}

Tells {len(report.labels)} classes apart: {", ".join(report.labels)}.

Made by edgetl for the target `{report.target}` ({plan.target.description}) from `{report.backbone}`
({plan.origin.source}; licence of the weights: {plan.origin.licence}).

| precision | accuracy, held out | accuracy on {accuracy.split} | inference p50 | bytes |
|---|---|---|---|---|
{rows}

{_verdict(judged, artifact)}
On {accuracy.split} only what the bundle holds is measured, and float, which the rest is held
against.{_not_tried(judged)}

- Accuracy of what ships: {100 * accuracy.shipped:.1f} % (95 % interval {100 * low:.1f} to {100 * high:.1f}) on
  {accuracy.images_in_words}.{_training(plan, report)}
- {_where_measured(plan, report)}
{_left_out(report)}{_calibrated(report)}- Made with `{report.command}`, seed {report.seed}.
{_damage(report)}
## Use it

```
pip install './edgetl-{version}-py3-none-any.whl[{extras}]'    # `pip wheel --no-deps .` in a clone of edgetl makes it
edgetl verify {name}
edgetl predict {name} photo.jpg
```
{_NEXT_STEPS.get(artifact.engine, "")}
```python
from edgetl import Predictor

with Predictor.open("{name}") as predictor:
    print(predictor.predict("photo.jpg").label)
```
"""


def on_device(plan: Plan, artifacts: Sequence[Artifact]) -> str:
    """Return the page that says how the bundle becomes a TensorRT plan on the device, with edgetl and without."""
    name, target, version = plan.settings.out.resolve().name, plan.target, __version__
    typed = [artifact for artifact in artifacts if artifact.engine == PLANNED]
    ladder = "\n".join(f"{place}. `{each.path}`: {each.precision}" for place, each in enumerate(typed, 1))
    requires = "\n".join(f"- {each.replace('>=', ' ')} or newer" for each in target.device.requires)
    return f"""# {name} on its device: {target.description}

The device must have:

{requires}

## With edgetl

In the folder that holds `{name}`:

```
pip install './edgetl-{version}-py3-none-any.whl[tensorrt,ort]'    # `pip wheel --no-deps .` in a clone makes it
edgetl targets detect                   # what this machine is, and what is missing
edgetl compile {name}                   # builds the plan now: minutes, once a device
edgetl verify {name}                    # replays the golden photos, on the plan too
edgetl bench {name}
```

Without `edgetl compile`, the first long-running program that opens the bundle lets a process of its own build the plan,
answers through ONNX Runtime (`{artifacts[-1].path}`) meanwhile, and changes over once the plan has answered the golden
photos as the build did. A plan belongs to one device, one TensorRT and one driver; it is kept in
`~/.cache/edgetl/plans` (or `plans` in `EDGETL_CACHE`) under a key of all that, and made anew when one of them changes.

What is tried, in this order, since a device may not be able to build one of them:

{ladder}

## With trtexec

In the bundle's folder. Precision is in the graphs, so no precision flag is needed; `--stronglyTyped` is for TensorRT
10, and harmless in 11. Another graph of the list above takes the place of `model.onnx`.

```
{_trtexec(typed[0], target.device.architecture)}
```
"""


def _training(plan: Plan, report: BuildReport) -> str:
    """Return what the model card says of training, and of what was chosen by which photos."""
    named = plan.settings.precision
    if report.accuracy.frozen is None:
        chosen = (
            f"\n- Precision was chosen on {report.held_out_images} training photos, which it may have been trained on."
        )
        return (
            " It was trained elsewhere, and edgetl changed no weight\n  but for quantization."
            f"{f' Precision was named: {named}.' if named else chosen}"
        )
    return (
        f" After the frozen stage alone:\n  {100 * report.accuracy.frozen:.1f} %.\n"
        f"- How photos are fitted was chosen by cross-validation on the {report.train_images} training photos; "
        f"{'regularisation and when to stop' if named else 'regularisation, when to stop and precision'}\n"
        f"  on {report.held_out_images} more that were held out of training."
        f"{f' Precision was named: {named}.' if named else ''}"
    )


def _left_out(report: BuildReport) -> str:
    """Return the model card's line on the photos that were not used; empty where all were."""
    unread, leaked = len(report.check.bad), len(report.check.leaks)
    kinds = [f"{unread} that cannot be read"] if unread else []
    if leaked:
        kinds.append(f"{leaked} of training that {'is' if leaked == 1 else 'are'} measured on too")
    return f"- Photos left out: {', '.join(kinds)}; `report.json` names them.\n" if kinds else ""


def _calibrated(report: BuildReport) -> str:
    """Return the model card's lines on how what ships was quantized, and on what else was tried; empty where no ranges
    were asked for."""
    made, way = report.calibration, report.way
    if made is None or way is None:
        return ""
    ships = report.judged.verdict.precision.startswith("int8")
    tried = [
        f"{each.way} ({each.signals_in_words}): {each.reason}" for each in report.tried if not ships or each.way != way
    ]
    listed = "".join(f"- Tried{' too' if ships else ''}: {one}.\n" for one in tried)
    if not ships:
        return listed
    remarks = "".join(_sentence(remark) for remark in made.remarks)
    left = f" Left in float, for they lose most: {', '.join(way.float_layers)}." if way.float_layers else ""
    if way.per_tensor:
        left = f" Each weight has one scale, which is faster here than one for each channel.{left}"
    if report.qat:
        epochs = len(report.qat.history.epochs) - 1
        left = f" First it was trained on for {epochs} epoch{'s' * (epochs != 1)} of quantization-aware training.{left}"
    chosen = next(each for each in report.tried if each.way == way)
    return (
        f"- Ranges for quantization: recipe `{made.recipe}` on {len(made.photos)} training photos, named in "
        f"`report.json`; {chosen.signals_in_words}.{remarks}{left}\n{listed}"
    )


def _sentence(words: str) -> str:
    """Return words as a sentence after another; empty where there are none."""
    return f" {words[0].upper()}{words[1:]}." if words else ""


def _damage(report: BuildReport) -> str:
    """Return the model card's section on what quantization did to the answers; empty where float ships."""
    judged, split = report.judged, report.accuracy.split
    if judged.verdict.precision == "fp32":
        return ""
    damage = judged.damage
    drop, (before, after) = damage.drop, damage.calibration_error
    rows = "\n".join(
        f"| {each.label} | {each.images} | {_percent(each.before)} | {_percent(each.after)} |"
        for each in damage.by_class
    )
    return f"""
## What it costs

Against float:

- {drop.in_words(f"{split} photos")}: right answers lost {drop.lost},
  gained {drop.gained}. By chance alone as many would be lost with a probability of {drop.p_value:.2g} (McNemar's test).
- Answers changed: {len(damage.flips)}; `report.json` names the photos.
- The calibration error of its confidence is {after:.3f}, and was {before:.3f}.

| class | photos | fp32 | {judged.verdict.precision} |
|---|---|---|---|
{rows}
"""


def _verdict(judged: Judged, artifact: Artifact) -> str:
    """Return what ships and why, after the bounds of the target's budget that it misses."""
    missed = "".join(f"**Misses its budget:** {each}.\n" for each in judged.missed)
    why = f"{judged.verdict.reason}.{_sentence(judged.verdict.remark)}{_spares(judged)}"
    return f"{missed}**Ships {artifact.precision}.** {why}"


def _spares(judged: Judged) -> str:
    """Return what else is in the bundle, for a device that cannot build the first; empty where nothing is."""
    spares = judged.ships[1:]
    return f" In the bundle for devices that cannot build it, in this order: {', '.join(spares)}." if spares else ""


def _not_tried(judged: Judged) -> str:
    return "".join(
        f"\nNot tried: {each}, which quantizes as {first} does, and that was not chosen."
        for each, first in judged.not_tried.items()
    )


def _trtexec(artifact: Artifact, architecture: str) -> str:
    how, shape = artifact.execution, "x".join(str(size) for size in artifact.input.shape[1:])
    name, (smallest, usual, largest) = artifact.input.name, how.batch_profile
    command = "/usr/src/tensorrt/bin/trtexec" if architecture == "aarch64" else "trtexec"
    flags = [
        f"--onnx={artifact.path}",
        "--saveEngine=model.plan",
        "--stronglyTyped",
        f"--minShapes={name}:{smallest}x{shape}",
        f"--optShapes={name}:{usual}x{shape}",
        f"--maxShapes={name}:{largest}x{shape}",
        *([f"--memPoolSize=workspace:{how.workspace_bytes // 2**20}"] if how.workspace_bytes else []),
        "--timingCacheFile=timing.cache",
        "--useCudaGraph --noDataTransfers --useSpinWait",
    ]
    return " \\\n  ".join([command, *flags])


def _percent(value: float | None) -> str:
    return "not measured" if value is None else f"{100 * value:.1f} %"


def _milliseconds(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2f} ms"


def _where_measured(plan: Plan, report: BuildReport) -> str:
    machine = report.judged.machine
    shipped = report.judged.of(report.judged.verdict.precision)
    if shipped.latency is None:
        return (
            f"Latency was not measured where it was built ({machine.cpu}). Accuracy was, by "
            f"{shipped.answered_by}. Measure on the device with `edgetl bench`."
        )
    return (
        f"Latency is inference alone, one photo at a time, measured on {machine.cpu}, {machine.cores} cores, at a load "
        f"of {machine.load_1min}, {machine.date}."
    )
