"""`edgetl build`: photos in, bundle out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from edgetl.cli.console import Shown, out, print_json

if TYPE_CHECKING:
    from edgetl.pipeline import BuildReport, BuildSettings, Summary

__all__ = ["build"]


def build(
    data: Annotated[
        str | None, Option(help="Folder of photos (train/ val/, one folder a class, or split.csv), or `digits`.")
    ] = None,
    backbone: Annotated[str | None, Option(help="`edgetl/nano` (comes with edgetl) or `torchvision/<name>`.")] = None,
    target: Annotated[str | None, Option(help="Device to build for: see `edgetl targets`.")] = None,
    out_folder: Annotated[Path | None, Option("--out", help="Folder that becomes the bundle.")] = None,
    weights: Annotated[str | None, Option(help="File of weights (.safetensors, .pth), or `random`.")] = None,
    epochs: Annotated[int | None, Option(help="Fine-tuning epochs; 0 stops after the frozen stage.")] = None,
    lr: Annotated[
        float | None,
        Option(help="Fine-tuning rate of the backbone (the head's: fivefold)."),
    ] = None,
    image_size: Annotated[int | None, Option(help="Photo side in pixels.")] = None,
    fit: Annotated[str | None, Option(help="How photos are fitted to the square: auto, crop, squash or pad.")] = None,
    recipe: Annotated[str | None, Option(help="Calibration recipe: a name or a TOML file.")] = None,
    seed: Annotated[int | None, Option(help="Seed of everything random.")] = None,
    device: Annotated[str | None, Option(help="Where to train: auto, cpu or cuda.")] = None,
    golden: Annotated[int | None, Option(help="Photos kept in the bundle for `edgetl verify`; 0 keeps none.")] = None,
    skip_bad: Annotated[
        bool | None, Option("--skip-bad", help="Leave unreadable photos out instead of stopping.")
    ] = None,
    config: Annotated[Path | None, Option(help="build.toml with the same names; a flag wins.")] = None,
    json: Annotated[bool, Option("--json", help="Print one JSON object.")] = False,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Print the plan and the stages already done; do nothing.")
    ] = False,
    force: Annotated[bool, Option("--force", help="Make every stage anew.")] = False,
) -> None:
    """Fine-tune, quantize, prove, measure and bundle a classifier from a folder of photos."""
    from edgetl.errors import BudgetError, MissingError

    try:
        from edgetl import pipeline
    except ModuleNotFoundError as error:
        raise MissingError(
            f"{error.name} is needed to build and is not installed. Run: pip install 'edgetl[train]'"
        ) from None

    flags: dict[str, Any] = {
        "data": data, "backbone": backbone, "target": target, "out": out_folder, "weights": weights, "epochs": epochs,
        "lr": lr, "image_size": image_size, "fit": fit, "recipe": recipe, "seed": seed, "device": device,
        "golden": golden,
        "skip_bad": skip_bad,
    }  # fmt: skip
    settings = pipeline.read_settings(config, flags)
    if dry_run:
        _print_plan(settings)
        return
    bundle = pipeline.build(settings, Shown(), force)
    report = pipeline.BuildReport.model_validate_json(bundle.read("report.json"))
    summary = pipeline.Summary.of(str(bundle.folder), bundle.manifest.artifact.engine, report)
    if json:
        print_json(summary)
    else:
        _print_result(summary, report)
    if report.judged.missed:
        raise BudgetError(f"MISSED: {'; '.join(report.judged.missed)}. The bundle was written all the same")


def _print_plan(settings: BuildSettings) -> None:
    from edgetl.pipeline import make_plan

    plan = make_plan(settings, Shown())
    sizes = ", ".join(f"{len(plan.dataset.of(split))} {split}" for split in ("train", "val", "test"))
    out.print(f"data      {settings.data}: {sizes} photos of {len(plan.dataset.labels)} classes")
    out.print(f"backbone  {settings.backbone}, weights: {plan.weights.record.source}")
    out.print(f"target    {plan.target.name}: {plan.target.engine.name}, {' or '.join(plan.target.engine.precisions)}")
    for stage in plan.stages:
        out.print(f"stage     {stage.name:10} {'done' if stage.done else 'to do'}")


def _print_result(summary: Summary, report: BuildReport) -> None:
    judged, accuracy = report.judged, report.accuracy
    out.print()
    out.print(
        f"frozen stage  {100 * accuracy.frozen:6.2f} % on {accuracy.images} {accuracy.split} photos that nothing "
        "was chosen by"
    )
    for each in judged.measured:
        mark = "  <- ships" if each.precision == summary.precision else ""
        out.print(
            f"{each.precision:12}  {100 * each.accuracy:6.2f} %   p50 {each.latency.p50_ms:7.2f} ms   "
            f"{each.size_bytes / 1e6:6.2f} MB{mark}"
        )
    out.print(f"{judged.verdict.reason}.")
    seconds = summary.seconds
    out.print(
        f"{seconds.total:.0f} s this time; when made, the frozen stage took {seconds.frozen:.0f} s and fine-tuning "
        f"{seconds.tune:.0f} s"
    )
    out.print(
        f"\nNext:\n  edgetl verify {summary.bundle}\n  edgetl bench {summary.bundle}\n"
        f"  edgetl predict {summary.bundle} PHOTO.jpg"
    )
