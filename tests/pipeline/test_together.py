"""Tests of edgetl/pipeline/together.py and edgetl/finetune/ranks.py: two processes on a CPU, over gloo."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from edgetl.bundle import Bundle
from edgetl.finetune import Ranks
from edgetl.finetune.augment import EpochOrder
from edgetl.pipeline import BuildReport

LAUNCHERS = {
    "torchrun": ("torch.distributed.run", "--nproc-per-node", "2", "--master-port"),
    "accelerate": ("accelerate.commands.launch", "--cpu", "--num_processes", "2", "--main_process_port"),
}


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("photos", [24, 25])
def test_together_they_see_each_photo_once(count: int, photos: int) -> None:
    orders = [EpochOrder(photos, 8, seed=3, ranks=Ranks(number=number, count=count)) for number in range(count)]
    assert len({len(order) for order in orders}) == 1
    seen = [number for order in orders for batch in order for _, number in batch]
    assert sorted(set(seen)) == sorted(seen)
    assert len(seen) == 24  # one that is left over is left out
    assert all(len(batch) >= 8 // count for order in orders for batch in order)


def launch(launcher: str, out: Path, cache: Path, words: list[str]) -> subprocess.CompletedProcess[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launched = ["-m", *LAUNCHERS[launcher], port] if launcher in LAUNCHERS else []
    return subprocess.run(
        [sys.executable, *launched, "-m", "edgetl", "build", *words, "--out", str(out)],
        env={**os.environ, "EDGETL_CACHE": str(cache), "OMP_NUM_THREADS": "1"}, check=False, capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_come_to_what_one_comes_to(launcher: str, colours: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    words = [
        # Without dropout, whose masks would be others.
        "--data", str(colours), "--backbone", "torchvision/shufflenet_v2_x0_5", "--weights", "random",
        "--image-size", "32", "--epochs", "2", "--batch", "8", "--precision", "fp32", "--device", "cpu",
    ]  # fmt: skip
    histories = {}
    for who in ("alone", launcher):
        ran = launch(who, tmp_path / who, tmp_path / f"cache-{who}", words)
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.count("Next:") == 1  # one tells
        bundle = Bundle.open(tmp_path / who)
        bundle.check_files()
        histories[who] = BuildReport.model_validate_json(bundle.read("report.json")).training.tuned.history
        assert len(list((tmp_path / f"cache-{who}" / "stages").glob("tuned-*"))) == 1
        assert not list((tmp_path / f"cache-{who}").glob("checkpoints/*"))
    assert histories[launcher].epochs[0].held_out_loss == histories["alone"].epochs[0].held_out_loss
    for one, other in zip(histories["alone"].epochs[1:], histories[launcher].epochs[1:], strict=True):
        assert other.held_out_loss == pytest.approx(one.held_out_loss, rel=0.02)
        assert other.train_loss == pytest.approx(one.train_loss, rel=0.02)


@pytest.mark.slow
def test_what_is_wrong_is_told_once_and_ends_them_all(colours: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    words = ["--data", str(colours), "--backbone", "torchvision/squeezenet", "--device", "cpu"]
    ran = launch("torchrun", tmp_path / "out", tmp_path / "cache", words)
    assert ran.returncode != 0
    assert ran.stderr.count("unknown backbone 'torchvision/squeezenet'. Did you mean") == 1
