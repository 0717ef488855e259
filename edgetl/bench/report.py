"""Benchmarks a bundle on this machine: one photo at a time, as fast as it goes, and from a cold start."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from PIL import Image

from edgetl.bench.detect import differences
from edgetl.bench.machine import Machine, describe_machine
from edgetl.bench.timing import summarise, time_calls
from edgetl.bundle import Bundle
from edgetl.errors import ExportError, MissingError, SettingsError, TargetError
from edgetl.records import Device, Latency, Precision, Progress, Quiet, Record, TimeSplit
from edgetl.runtime import Predictor, compile_bundle
from edgetl.target import load_target

__all__ = ["BenchReport", "ColdStart", "bench_bundle"]

WARM_UP_SECONDS = 1.0
# What a fresh process on the device does; prints what it saw as JSON.
COLD_START = r"""
import json, re, sys, time
from pathlib import Path
from edgetl.runtime import Predictor
with Predictor.open(sys.argv[1], fallback=sys.argv[2] == "1", build_plan=False) as predictor:
    opened = time.time()
    photo = sys.stdin.buffer.read()
    predictor.predict(photo)
    answered = time.time()
    for _ in range(20):
        predictor.predict(photo)
# Not getrusage: its peak is inherited from the process that started this one.
peak = int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
print(json.dumps({"opened": opened, "answered": answered, "peak_memory_bytes": peak}))
"""


class ColdStart(Record):
    """A fresh process: seconds from its start to an open bundle and to the first answer, and its peak memory."""

    opened_seconds: float
    answered_seconds: float
    peak_memory_bytes: int


class BenchReport(Record):
    """What was measured, on which machine; `quick` marks runs under 60 s, as the MLPerf-style rules ask.

    `unlike_target` says what tells this machine from the bundle's target, where that is known: the figures are then of
    this machine, and say little of the device.
    """

    bundle: str
    target: str
    unlike_target: tuple[str, ...]
    engine: str
    device: Device
    precision: Precision
    degraded: str | None
    size_bytes: int
    photos: str
    quick: bool
    single_stream: Latency
    split: TimeSplit
    throughput_per_second: float
    threads: int
    cold_start: ColdStart
    machine: Machine


def bench_bundle(
    folder: Path, seconds: float = 10.0, fallback: bool = False, progress: Progress | None = None
) -> BenchReport:
    """Return what the bundle does on this machine, on its golden photos (or one made-up photo where it has none).

    Args:
        folder: the bundle.
        seconds: how long single-stream and throughput are each measured, after a second of warm-up.
        fallback: where the bundle's engine or device is not here, measure what can answer, and say so in the report.
        progress: shows a plan that is built first, where the device makes one for itself and has none yet.

    Raises:
        SettingsError: seconds is not positive.
        BundleError: no bundle there, or a damaged one.
        MissingError: its engine or device is not here.
    """
    if not 0 < seconds <= 3600:
        raise SettingsError(f"seconds must be above 0 and at most 3600, found {seconds:g}")
    bundle = Bundle.open(folder)
    photos, source = _photos(bundle)
    _make_plan(folder, fallback, progress or Quiet())
    with Predictor.open(folder, fallback=fallback, build_plan=False) as predictor:
        artifact, degraded = predictor.session.artifact, predictor.session.degraded
        turn = cycle(photos)
        times = []
        samples = time_calls(lambda: times.append(predictor.predict(next(turn)).time), seconds, WARM_UP_SECONDS)
        timed = times[-len(samples) :]
    threads = os.cpu_count() or 1
    return BenchReport(
        bundle=str(folder),
        target=bundle.manifest.target,
        unlike_target=_unlike(bundle.manifest.target),
        engine=artifact.engine,
        device=artifact.execution.device,
        precision=artifact.precision,
        degraded=degraded,
        size_bytes=sum(bundle.manifest.files[name].size_bytes for name in artifact.files),
        photos=source,
        quick=seconds < 60,
        single_stream=summarise(samples),
        split=TimeSplit(
            decode_ms=float(np.median([one.decode_ms for one in timed])),
            preprocess_ms=float(np.median([one.preprocess_ms for one in timed])),
            inference_ms=float(np.median([one.inference_ms for one in timed])),
            postprocess_ms=float(np.median([one.postprocess_ms for one in timed])),
        ),
        throughput_per_second=_throughput(folder, photos, threads, seconds, fallback),
        threads=threads,
        cold_start=_cold_start(folder, photos[0], fallback),
        machine=describe_machine(),
    )


def _make_plan(folder: Path, fallback: bool, progress: Progress) -> None:
    """Build the plan of a bundle whose device makes one for itself, so that nothing changes while it is measured."""
    try:
        compile_bundle(folder, progress)
    except (MissingError, ExportError) as error:
        if not fallback:
            raise type(error)(f"{error} (or measure what can answer: --fallback, in Python fallback=True)") from error


def _unlike(target: str) -> tuple[str, ...]:
    """Return what tells this machine from a target; nothing of one that is not known here."""
    try:
        return differences(load_target(target))
    except TargetError:
        return ()


def _photos(bundle: Bundle) -> tuple[list[bytes], str]:
    golden = bundle.manifest.golden
    if golden is not None:
        return [bundle.read(name) for name in golden.images], f"{len(golden.images)} golden photos"
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((640, 480)).save(buffer, "JPEG", quality=90)
    return [buffer.getvalue()], "one made-up photo of 640x480 (the bundle holds no golden ones)"


def _throughput(folder: Path, photos: list[bytes], threads: int, seconds: float, fallback: bool) -> float:
    """Return photos a second, with one photo in work a core and one engine thread each."""
    with (
        Predictor.open(folder, threads=1, fallback=fallback, build_plan=False) as predictor,
        ThreadPoolExecutor(threads) as pool,
    ):
        turn = cycle(photos)
        list(pool.map(predictor.predict, islice(turn, 4 * threads)))
        done, passed, start = 0, 0.0, time.perf_counter()
        while passed < seconds:
            done += len(list(pool.map(predictor.predict, islice(turn, 16 * threads))))
            passed = time.perf_counter() - start
        return done / passed


def _cold_start(folder: Path, photo: bytes, fallback: bool) -> ColdStart:
    """Return the first answer of a fresh process; wall-clock times are compared within one machine, seconds apart."""
    started = time.time()
    child = subprocess.run(
        [sys.executable, "-c", COLD_START, str(folder), str(int(fallback))],
        input=photo,
        capture_output=True,
        check=True,
    )
    seen = json.loads(child.stdout)
    return ColdStart(
        opened_seconds=seen["opened"] - started,
        answered_seconds=seen["answered"] - started,
        peak_memory_bytes=seen["peak_memory_bytes"],
    )
