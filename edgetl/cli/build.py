"""`edgetl build`: photos in, bundle out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from edgetl.cli.console import Shown, out, print_json

if TYPE_CHECKING:
    from edgetl.pipeline import BuildReport, BuildSettings, Summary

__all__ = ["build"]

# Load a core above which more than the build itself was at work.
BUSY_LOAD = 1.5
BUSY = ": others may have been at work; measure again with --force when none is"


def build(
    data: Annotated[
        str | None, Option(help="Folder of photos (train/ val/, one folder a class, or split.csv), or `digits`.")
    ] = None,
    backbone: Annotated[
        str | None, Option(help="`edgetl/nano` (comes with edgetl) or `torchvision/<name>`. [default: edgetl/nano]")
    ] = None,
    target: Annotated[
        list[str] | None, Option(help="Device to build for: see `edgetl targets`. Several may be named. [default: cpu]")
    ] = None,
    out_folder: Annotated[
        Path | None, Option("--out", help="Folder that becomes the bundle, or holds one a target.")
    ] = None,
    weights: Annotated[str | None, Option(help="File of weights (.safetensors, .pth), or `random`.")] = None,
    head: Annotated[
        str | None,
        Option(help="What is put on the backbone: linear, mlp, prototype, or auto by how many photos. [default: auto]"),
    ] = None,
    views: Annotated[
        int | None, Option(help="Views of each photo, changed at random, that the head learns from too. [default: 0]")
    ] = None,
    epochs: Annotated[
        int | None, Option(help="Fine-tuning epochs; 0 stops after the frozen stage. [default: 7]")
    ] = None,
    lr: Annotated[
        str | None, Option(help="Fine-tuning rate of the backbone (the head's: fivefold), or auto: look for one.")
    ] = None,
    schedule: Annotated[str | None, Option(help="How the rate goes: cosine or one-cycle. [default: cosine]")] = None,
    unfreeze: Annotated[
        str | None, Option(help="What fine-tuning trains: all, gradual, or last:N blocks. [default: all]")
    ] = None,
    layer_decay: Annotated[
        float | None, Option(help="The rate of each block, of that of the one behind it. [default: 1.0]")
    ] = None,
    augment: Annotated[
        str | None, Option(help="How training photos are changed: none, light, trivial or rand. [default: light]")
    ] = None,
    mixup: Annotated[float | None, Option(help="Mix photos by shares of Beta(MIXUP, MIXUP). [default: 0]")] = None,
    cutmix: Annotated[
        float | None, Option(help="Paste parts of photos by shares of Beta(CUTMIX, CUTMIX). [default: 0]")
    ] = None,
    label_smoothing: Annotated[float | None, Option(help="Share of a label spread over all. [default: 0.1]")] = None,
    balance: Annotated[
        str | None, Option(help="Let classes count the same: by loss, by sampler, or none. [default: none]")
    ] = None,
    ema: Annotated[
        float | None,
        Option(help="Keep averaged weights that follow by 1 - EMA a step: 0.99, say. [default: 0, off]"),
    ] = None,
    clip: Annotated[float | None, Option(help="Largest norm of a step's gradients. [default: 0, any]")] = None,
    patience: Annotated[
        int | None, Option(help="Epochs without a better held-out answer before it stops. [default: 5]")
    ] = None,
    batch: Annotated[int | None, Option(help="Photos that are trained on at once. [default: 16]")] = None,
    accumulate: Annotated[int | None, Option(help="Batches that make a step. [default: 1]")] = None,
    amp: Annotated[
        str | None, Option(help="Mixed precision: auto (on CUDA), off, bf16 or fp16. [default: auto]")
    ] = None,
    compile_: Annotated[bool | None, Option("--compile", help="Train by torch.compile.")] = None,
    image_size: Annotated[int | None, Option(help="Photo side in pixels. [default: the backbone's]")] = None,
    fit: Annotated[
        str | None, Option(help="How photos are fitted to the square: auto, crop, squash or pad. [default: auto]")
    ] = None,
    recipe: Annotated[
        str | None, Option(help="The calibration recipe, a name or a TOML file; else those of the target are tried.")
    ] = None,
    precision: Annotated[
        str | None, Option(help="Ship this precision, whatever it costs; the report says what.")
    ] = None,
    budget: Annotated[
        float | None, Option(help="Points of accuracy that quantization may lose; the target's, unless said.")
    ] = None,
    qat: Annotated[
        int | None, Option(help="Epochs of quantization-aware training, tried where INT8 loses too much. [default: 0]")
    ] = None,
    strict_budget: Annotated[
        bool | None,
        Option("--strict-budget", help="Let the worse end of the drop's 95 % interval be inside the budget too."),
    ] = None,
    from_onnx: Annotated[
        str | None, Option(help="ONNX file of a float classifier, trained elsewhere, in place of training one.")
    ] = None,
    labels: Annotated[
        str | None, Option(help="With --from-onnx: a file with its classes, a line each, in the order of its outputs.")
    ] = None,
    mean: Annotated[
        str | None, Option(help="With --from-onnx: what it takes from pixel/255, such as 0.485,0.456,0.406.")
    ] = None,
    std: Annotated[str | None, Option(help="With --from-onnx: what it divides by, such as 0.229,0.224,0.225.")] = None,
    channels: Annotated[str | None, Option(help="With --from-onnx: the order it reads them in, rgb or bgr.")] = None,
    crop_share: Annotated[
        float | None, Option(help="With --from-onnx: share of a photo's short side that `--fit crop` keeps.")
    ] = None,
    seed: Annotated[int | None, Option(help="Seed of everything random. [default: 0]")] = None,
    device: Annotated[str | None, Option(help="Where to train: auto, cpu or cuda. [default: auto]")] = None,
    golden: Annotated[
        int | None, Option(help="Photos kept in the bundle for `edgetl verify`; 0 keeps none. [default: 8]")
    ] = None,
    skip_bad: Annotated[
        bool | None, Option("--skip-bad", help="Leave unreadable photos out instead of stopping.")
    ] = None,
    log: Annotated[
        str | None, Option(help="Tell each epoch to tensorboard or mlflow, where that is installed. [default: none]")
    ] = None,
    config: Annotated[Path | None, Option(help="build.toml with the same names; a flag wins.")] = None,
    json: Annotated[bool, Option("--json", help="Print one JSON object.")] = False,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Print the plan and the stages already done; do nothing.")
    ] = False,
    force: Annotated[bool, Option("--force", help="Make every stage anew.")] = False,
) -> None:
    """Fine-tune, quantize, prove, measure and bundle a classifier from a folder of photos."""
    from edgetl import pipeline
    from edgetl.errors import BudgetError

    flags: dict[str, Any] = {
        "data": data, "backbone": backbone, "target": target, "out": out_folder, "weights": weights,
        "head": head, "views": views, "epochs": epochs,
        "lr": lr, "schedule": schedule, "unfreeze": unfreeze, "layer_decay": layer_decay, "augment": augment,
        "mixup": mixup, "cutmix": cutmix, "label_smoothing": label_smoothing, "balance": balance, "ema": ema,
        "clip": clip, "patience": patience, "batch": batch, "accumulate": accumulate, "amp": amp, "compile": compile_,
        "image_size": image_size, "fit": fit,
        "recipe": recipe, "seed": seed, "device": device, "golden": golden, "skip_bad": skip_bad, "log": log,
        "precision": precision, "strict_budget": strict_budget, "qat": qat, "budget": budget, "from_onnx": from_onnx,
        "labels": labels, "mean": mean, "std": std, "channels": channels, "crop_share": crop_share,
    }  # fmt: skip
    builds = pipeline.read_builds(config, flags)
    if dry_run:
        _print_plans(builds, json)
        return
    reports, took, started = [], [], time.perf_counter()
    for bundle in pipeline.build_each(builds, Shown(), force):
        report = pipeline.BuildReport.model_validate_json(bundle.read("report.json"))
        reports.append((pipeline.Summary.of(str(bundle.folder), bundle.manifest.artifact.engine, report), report))
        took.append(time.perf_counter() - started)
        started = time.perf_counter()
    if not reports:  # the first of the processes that were started together tells
        return
    if json:
        print_json(
            reports[0][0] if len(builds) == 1 else {"builds": [each.model_dump(mode="json") for each, _ in reports]}
        )
    elif len(builds) == 1:
        _print_result(*reports[0], took[0])
    else:
        _print_table([summary for summary, _ in reports], [report for _, report in reports], took)
    missed = [f"{summary.target}: {each}" for summary, _ in reports for each in summary.missed]
    if missed:
        raise BudgetError(
            f"MISSED: {'; '.join(missed)}. {'The bundle was' if len(builds) == 1 else 'Every bundle was'} written all "
            "the same. More photos tell more; --precision fp32 ships float, --budget says what may be lost"
        )


def _print_plans(builds: list[BuildSettings], json: bool) -> None:
    from edgetl.data import SPLITS
    from edgetl.pipeline import make_plans

    plans = make_plans(builds, Shown())
    first = plans[0]
    dataset = first.photos.usable if first.photos.check.done else first.photos.dataset
    photos = {split: len(dataset.of(split)) for split in SPLITS}
    if json:
        bundles = [
            {
                "bundle": str(plan.settings.out),
                "target": plan.target.name,
                "engine": plan.target.engine.name,
                "precisions": plan.target.engine.precisions,
                "done": {stage.name: stage.done for stage in plan.stages},
            }
            for plan in plans
        ]
        print_json({"photos": photos, "labels": first.photos.dataset.labels, "builds": bundles})
        return
    sizes = ", ".join(f"{count} {split}" for split, count in photos.items())
    out.print(f"data      {first.settings.data}: {sizes} photos of {len(first.photos.dataset.labels)} classes")
    if first.graph:
        out.print(f"network   {first.graph.name}, trained elsewhere, {first.graph.classes} classes")
    else:
        out.print(f"backbone  {first.settings.backbone}, weights: {first.origin.source}")
    seen: set[Path] = set()
    for plan in plans:
        precisions = " or ".join(plan.target.engine.precisions)
        out.print(f"target    {plan.target.name}: {plan.target.engine.name}, {precisions}")
        for stage in plan.stages:
            if stage.folder not in seen:
                out.print(f"stage     {stage.name:10} {'done' if stage.done else 'to do'}")
            seen.add(stage.folder)


def _print_accuracies(report: BuildReport) -> None:
    """Print which photos accuracy is on, and what training came to there."""
    accuracy, taught = report.accuracy, report.training
    low, high = report.judged.unseen_of("fp32").accuracy_interval
    out.print(f"\nAccuracy is on {accuracy.images_in_words}.")
    float_ = f"{100 * accuracy.float_:.2f} % (95 % interval {100 * low:.1f} to {100 * high:.1f})"
    if taught is None or accuracy.frozen is None:
        out.print(f"float {float_}")
        return
    if not taught.tuned.history.epochs[1:]:
        out.print(f"frozen stage {float_}")
        return
    out.print(f"frozen stage {100 * accuracy.frozen:.2f} %, fine-tuned {float_}")
    lost = 100 * (accuracy.frozen - accuracy.float_)
    if taught.tuned.history.best == 0:
        out.print("No epoch answered the held-out photos better than the frozen stage, so its network is kept.")
    elif lost >= 0:
        what = f"lost {lost:.2f} points" if lost else "brought nothing"
        out.print(f"Fine-tuning {what} there against the frozen stage, at which --epochs 0 stops.")


def _print_timed(report: BuildReport) -> None:
    """Print where and when latency was measured, and whether much else was at work; nothing where it was not."""
    if report.judged.measured[0].latency:
        machine = report.judged.machine
        busy = BUSY if machine.load_1min > BUSY_LOAD * machine.cores else ""
        out.print(
            f"Timed {machine.date} on {machine.cpu}, {machine.cores} cores, at a load of {machine.load_1min}{busy}."
        )


def _print_table(summaries: list[Summary], reports: list[BuildReport], seconds: list[float]) -> None:
    _print_accuracies(reports[0])
    out.print(
        f"{'target':18} {'engine':12} {'precision':10} {'accuracy':>9} {'float':>9} {'inference':>12} {'size':>9}  in"
    )
    for each in summaries:
        out.print(
            f"{each.target:18} {each.engine:12} {each.precision:10} {100 * each.accuracy['shipped']:7.2f} % "
            f"{100 * each.accuracy['float']:7.2f} % {_milliseconds(each.latency_ms['shipped_p50']):>12} "
            f"{each.size_bytes['shipped'] / 1e6:6.2f} MB  {each.bundle}"
        )
    out.print()
    for each in summaries:
        out.print(f"{each.target}: {each.reason}.")
    for report in reports:
        _print_timed(report)
    took = ", ".join(f"{each.target} {one:.0f} s" for each, one in zip(summaries, seconds, strict=True))
    out.print(f"It took {took}.\n\nNext:")
    for each in summaries:
        out.print(f"  edgetl verify {each.bundle}")


def _milliseconds(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2f} ms"


def _print_result(summary: Summary, report: BuildReport, took: float) -> None:
    judged, accuracy = report.judged, report.accuracy
    _print_accuracies(report)
    for each in judged.measured:
        mark = "  <- ships" if each.precision == summary.precision else ""
        measured = "not measured" if each.accuracy is None else f"{100 * each.accuracy:.2f} %"
        out.print(
            f"{each.precision:10} held out {100 * each.held_out_accuracy:6.2f} %   {accuracy.split} {measured:>12}   "
            f"inference {_milliseconds(each.p50_ms):>12}   {each.size_bytes / 1e6:6.2f} MB{mark}"
        )
    for precision, first in judged.not_tried.items():
        out.print(f"{precision:10} not tried: it quantizes as {first} does, which was not chosen")
    for one in report.tried:
        reason = f": {one.reason}" if len(report.tried) > 1 else ""
        out.print(f"tried      {one.way}, {one.signals_in_words}{reason}")
    if report.way and report.way.float_layers:
        out.print(f"in float   {', '.join(report.way.float_layers)}")
    out.print(f"{judged.verdict.reason}.")
    if judged.verdict.remark:
        out.print(f"{judged.verdict.remark}.")
    for remark in report.calibration.remarks if report.calibration else ():
        out.print(f"Calibration: {remark}.")
    _print_timed(report)
    if summary.precision != "fp32":
        drop = judged.damage.drop
        out.print(
            f"Against float: {drop.in_words(f'{accuracy.split} photos')}: right answers lost {drop.lost}, gained "
            f"{drop.gained}; answers changed {len(judged.damage.flips)}."
        )
    taught = report.training
    made = (
        f"; when made, the frozen stage took {taught.frozen.seconds:.0f} s and fine-tuning {taught.tuned.seconds:.0f} s"
        if taught
        else ""
    )
    out.print(f"{took:.0f} s this time{made}")
    out.print(
        f"\nNext:\n  edgetl verify {summary.bundle}\n  edgetl bench {summary.bundle}\n"
        f"  edgetl predict {summary.bundle} PHOTO.jpg"
    )
