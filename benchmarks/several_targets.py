"""Build for several targets in one run, and record what each adds to the first after training and decoding.

    python benchmarks/several_targets.py --config build.toml [--target cpu --target jetson ...]

Stages after training are always made anew, in a cache of their own; training, and the photos that it keeps decoded, are
taken from the usual cache where they are there. Every bundle is verified. In the end the first is built again, in
processes of their own: nothing has changed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from recording import save_result

from edgetl.pipeline import BuildReport, BuildSettings, build, build_each, make_plan, read_builds
from edgetl.records import Quiet
from edgetl.runtime import verify_bundle

# How often what is there already is built again.
AGAIN = 5
TARGETS = ["cpu", "intel-cpu", "jetson", "raspberry-pi-5"]


class Stages(Quiet):
    """Keeps the seconds of each stage that is made."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def say(self, line: str) -> None:
        if made := re.fullmatch(r"(\w+): ([\d.]+) s", line):
            self.seconds[made[1]] = float(made[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--target", action="append")
    options = parser.parse_args()
    figures, stages = {}, Stages()
    with tempfile.TemporaryDirectory() as scratch:
        builds = read_builds(options.config, {"out": Path(scratch) / "out", "target": options.target or TARGETS})
        train(builds[0], Path(scratch) / "cache")
        os.environ["EDGETL_CACHE"] = str(Path(scratch) / "cache")
        started = time.perf_counter()
        for bundle in build_each(builds, stages):
            took = time.perf_counter() - started
            report = BuildReport.model_validate_json(bundle.read("report.json"))
            figures[report.target] = {
                "seconds_after_training": took,
                "stages": stages.seconds,
                "precision": report.judged.verdict.precision,
                "accuracy": report.accuracy.shipped,
                "float_accuracy": report.accuracy.float_,
                "replayed": [each.path for each in verify_bundle(bundle.folder).replayed],
            }
            stages.seconds = {}
            started = time.perf_counter()
        again = [build_again(options.config, builds[0]) for _ in range(AGAIN)]
    first = next(iter(figures.values()))["seconds_after_training"]
    shares = {name: each["seconds_after_training"] / first for name, each in figures.items()}
    recorded = {"share_of_the_first": shares, "targets": figures, "again_seconds": again}
    save_result("several_targets", {"backbone": builds[0].backbone, **recorded})


def build_again(config: Path, settings: BuildSettings) -> float:
    """Return the seconds of the command that builds what is there already."""
    command = [sys.executable, "-m", "edgetl", "build", "--config", config, "--target", settings.target]
    started = time.perf_counter()
    ran = subprocess.run([*command, "--out", settings.out], capture_output=True, text=True, check=False)
    took = time.perf_counter() - started
    if "is up to date" not in ran.stderr:
        raise SystemExit(f"{settings.out} was built anew: {ran.stderr}")
    return took


def train(settings: BuildSettings, cache: Path) -> None:
    """Copy the stages up to training into another cache, after making them where they are not there yet."""
    plan = make_plan(settings, Quiet())
    stages = (plan.photos.check, plan.trained.view, plan.decoded, plan.trained.frozen, plan.trained.tuned)
    if not all(stage.done for stage in stages):
        build(settings.model_copy(update={"out": settings.out.with_name("trained")}))
    for stage in stages:
        shutil.copytree(stage.folder, cache / "stages" / stage.folder.name)


if __name__ == "__main__":
    main()
