"""Tests of edgetl/finetune/log.py."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgetl.finetune import TuneSettings, open_log
from edgetl.outcomes import Epoch

EPOCHS = [
    Epoch(epoch=0, train_loss=None, held_out_loss=0.9, held_out_accuracy=0.5, seconds=0.0),
    Epoch(epoch=1, train_loss=0.7, held_out_loss=0.6, held_out_accuracy=0.75, seconds=2.5),
]
FIGURES = {
    "train_loss": {1: 0.7},
    "held_out_loss": {0: 0.9, 1: 0.6},
    "held_out_accuracy": {0: 0.5, 1: 0.75},
    "seconds": {0: 0.0, 1: 2.5},
}


def log_all(kind: Any) -> None:
    with open_log(kind, "colours", TuneSettings(epochs=1)) as note:
        for epoch in EPOCHS:
            note(epoch)


def test_nothing_is_written_where_nothing_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    log_all("none")
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_reads_every_figure_of_every_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
    )
    monkeypatch.chdir(tmp_path)
    log_all("tensorboard")
    events = reading.EventAccumulator(str(tmp_path / "runs" / "colours")).Reload()
    found = {name: {each.step: each.value for each in events.Scalars(name)} for name in events.Tags()["scalars"]}
    assert found == {name: pytest.approx(figures) for name, figures in FIGURES.items()}


def test_mlflow_is_told_every_figure_of_every_epoch_and_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, dict[int, float]] = {}
    settings: dict[str, Any] = {}

    def log_metrics(figures: dict[str, float], step: int) -> None:
        for name, value in figures.items():
            told.setdefault(name, {})[step] = value

    def start_run(run_name: str) -> Any:
        assert run_name == "colours"
        return nullcontext()

    mlflow = SimpleNamespace(start_run=start_run, log_params=settings.update, log_metrics=log_metrics)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    log_all("mlflow")
    assert told == FIGURES
    assert settings["backbone_lr"] == TuneSettings(epochs=1).backbone_lr


def test_what_is_not_installed_is_an_error_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ModuleNotFoundError, match="mlflow"):
        log_all("mlflow")
