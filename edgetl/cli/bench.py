"""`edgetl bench`: how fast is this bundle here?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from edgetl.cli.console import Shown, out, print_json

if TYPE_CHECKING:
    from edgetl.bench import BenchReport

__all__ = ["bench"]


def bench(
    bundle: Annotated[Path, Argument(help="Folder of the bundle.")],
    seconds: Annotated[float, Option(help="How long each measurement runs.")] = 10.0,
    fallback: Annotated[
        bool, Option("--fallback", help="Where its engine or device is not here, answer through what can, and say so.")
    ] = False,
    json: Annotated[bool, Option("--json", help="Print one JSON object, with every sample.")] = False,
) -> None:
    """Measure latency, throughput, memory and cold start on this machine."""
    from edgetl.bench import bench_bundle

    report = bench_bundle(bundle, seconds, fallback, Shown())
    if json:
        print_json(report)
    else:
        _print_report(report)


def _print_report(report: BenchReport) -> None:
    def shown(value: float | None) -> str:
        return "not measured (too few photos: more --seconds)" if value is None else f"{value:.2f} ms"

    stream, split, cold = report.single_stream, report.split, report.cold_start
    out.print(
        f"{report.bundle}: {report.engine} on {report.device}, {report.precision}, "
        f"{report.size_bytes / 1e6:.2f} MB, {report.photos}"
    )
    if report.degraded:
        out.print(f"degraded       {report.degraded}")
    if report.unlike_target:
        out.print(f"unlike         {report.target}, which {'; '.join(report.unlike_target)}")
    out.print(f"machine        {report.machine.cpu}, {report.machine.cores} cores, load {report.machine.load_1min}")
    out.print(
        f"single stream  p50 {shown(stream.p50_ms)}, p90 {shown(stream.p90_ms)}, p99 {shown(stream.p99_ms)}, "
        f"{stream.count} photos"
    )
    out.print(
        f"split (p50)    decode {split.decode_ms:.2f} ms, preprocess {split.preprocess_ms:.2f} ms, "
        f"inference {split.inference_ms:.2f} ms, postprocess {split.postprocess_ms:.2f} ms"
    )
    out.print(f"throughput     {report.throughput_per_second:.0f} photos/s, {report.threads} in work at once")
    out.print(
        f"cold start     {cold.opened_seconds:.2f} s to an open bundle, {cold.answered_seconds:.2f} s to the first "
        f"answer, peak memory {cold.peak_memory_bytes / 1e6:.0f} MB"
    )
    if report.quick:
        out.print("quick: for figures to publish, --seconds 60 or more")
