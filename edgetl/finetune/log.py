"""Tells tools that draw curves what each epoch came to, as it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from edgetl.options import TuneSettings
from edgetl.outcomes import Epoch
from edgetl.records import LogKind

__all__ = ["open_log"]

Note = Callable[[Epoch], None]


def open_log(kind: LogKind, name: str, settings: TuneSettings) -> AbstractContextManager[Note]:
    """Return a block in which a function is told each epoch.

    Args:
        kind: `tensorboard`, into `runs/<name>` of the working directory; `mlflow`, as a run of that name, where
            MLFLOW_TRACKING_URI says or into `mlruns`; or `none`.
        name: of the run.
        settings: of fine-tuning, which MLflow keeps beside the figures.

    Raises:
        ModuleNotFoundError: when the block begins: the tool is not installed.
    """
    return {"none": _nowhere, "tensorboard": _tensorboard, "mlflow": _mlflow}[kind](name, settings)


@contextmanager
def _nowhere(name: str, settings: TuneSettings) -> Iterator[Note]:
    yield lambda epoch: None


@contextmanager
def _tensorboard(name: str, settings: TuneSettings) -> Iterator[Note]:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(Path("runs") / name) as writer:

        def note(epoch: Epoch) -> None:
            for key, value in _figures(epoch).items():
                writer.add_scalar(key, value, epoch.epoch)

        yield note


@contextmanager
def _mlflow(name: str, settings: TuneSettings) -> Iterator[Note]:
    import mlflow

    with mlflow.start_run(run_name=name):
        mlflow.log_params(settings.model_dump())
        yield lambda epoch: mlflow.log_metrics(_figures(epoch), step=epoch.epoch)


def _figures(epoch: Epoch) -> dict[str, float]:
    """Return what an epoch came to, by name; before training there is no loss of it."""
    return epoch.model_dump(exclude={"epoch"}, exclude_none=True)
