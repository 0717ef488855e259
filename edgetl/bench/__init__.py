"""Measures what a bundle does here: latency, throughput, memory, cold start."""

from edgetl.bench.accuracy import answer_all
from edgetl.bench.detect import Detected, Fit, detect, fit, is_of_kind
from edgetl.bench.machine import Machine, describe_machine, versions_of
from edgetl.bench.report import BenchReport, bench_bundle
from edgetl.bench.timing import compare_speed, interleave, summarise

__all__ = [
    "BenchReport",
    "Detected",
    "Fit",
    "Machine",
    "answer_all",
    "bench_bundle",
    "compare_speed",
    "describe_machine",
    "detect",
    "fit",
    "interleave",
    "is_of_kind",
    "summarise",
    "versions_of",
]
