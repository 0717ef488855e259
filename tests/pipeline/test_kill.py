"""A build that is killed again and again comes to the same in the end."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

KILLS = 20
# `edgetl` with one change: which precision ships hangs on the clock, and at 32 pixels the two are too close to call.
EDGETL = """
import signal
# A shell lets what it starts in the background ignore Ctrl-C, and these tests may be started so.
signal.signal(signal.SIGINT, signal.default_int_handler)
from edgetl.bench import summarise
from edgetl.pipeline import measure
measure.interleave = lambda calls, rounds, each: {
    name: summarise([2.0 if name == "fp32" else 1.0] * rounds * each) for name in calls
}
from edgetl.cli.app import main
main()
"""


def command(small_build: dict[str, Any], out: Path) -> list[str]:
    flags = [word for name, value in small_build.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return [sys.executable, "-c", EDGETL, "build", *flags, "--device", "cpu", "--out", str(out)]


def environment(cache: Path) -> dict[str, str]:
    return {**os.environ, "EDGETL_CACHE": str(cache), "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_twenty_kills_leave_the_same_bundle_and_nothing_beside_it(
    small_build: dict[str, Any], fingerprint: Callable[[Path], dict[str, str]], tmp_path: Path
) -> None:
    (tmp_path / "dist").mkdir()
    older, undisturbed, disturbed = tmp_path / "older", tmp_path / "undisturbed", tmp_path / "dist" / "colours"
    earlier = {**small_build, "seed": 1}
    subprocess.run(command(earlier, older), env=environment(tmp_path / "calm"), check=True)
    started = time.monotonic()
    subprocess.run(command(small_build, undisturbed), env=environment(tmp_path / "calm"), check=True)
    whole_seconds = time.monotonic() - started

    draw, killed, rounds = random.Random(20), 0, 0
    while killed < KILLS:
        # A build that was done before it could be killed starts over: another cache, an older bundle in place.
        cache = tmp_path / f"shaken-{rounds}"
        child = subprocess.Popen(
            command(small_build, disturbed), env=environment(cache), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        try:
            _, said = child.communicate(timeout=draw.uniform(0.3, 0.8) * whole_seconds)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            child.communicate()
            killed += 1
        else:
            assert child.returncode == 0, said.decode()
            rounds += 1
            shutil.rmtree(disturbed)
            shutil.copytree(older, disturbed)
    subprocess.run(command(small_build, disturbed), env=environment(tmp_path / f"shaken-{rounds}"), check=True)

    assert fingerprint(older) != fingerprint(undisturbed)
    assert fingerprint(disturbed) == fingerprint(undisturbed)
    assert [path.name for path in (tmp_path / "dist").iterdir()] == ["colours"]


@pytest.mark.slow
def test_ctrl_c_stops_a_build_with_a_word_and_its_own_exit_code(small_build: dict[str, Any], tmp_path: Path) -> None:
    child = subprocess.Popen(
        command(small_build, tmp_path / "out"), env=environment(tmp_path / "cache"), stderr=subprocess.PIPE, text=True
    )
    assert child.stderr is not None
    assert child.stderr.readline()  # the first line of progress: the build is under way
    child.send_signal(signal.SIGINT)
    rest = child.stderr.read()
    child.stderr.close()
    assert child.wait() == 130
    assert rest.splitlines()[-1] == "edgetl: stopped. What was finished is kept: type the same command to go on"
    assert "Traceback" not in rest
    assert not (tmp_path / "out").exists()
