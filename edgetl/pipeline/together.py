"""Fine-tuning in one process or in several: the first does all else, and calls the others when it comes to training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from edgetl.errors import EdgetlError
from edgetl.finetune import Classifier, find_rate, join_ranks, open_log, settings_of, tune
from edgetl.folders import cache_folder
from edgetl.outcomes import History
from edgetl.pipeline.networks import head_on
from edgetl.pipeline.plan import Plan
from edgetl.pipeline.prepare import make_plan
from edgetl.pipeline.settings import BuildSettings
from edgetl.pipeline.training import tuning_of
from edgetl.records import Progress, Quiet

__all__ = ["checkpoint_of", "lead", "train_together"]


@contextmanager
def lead(builds: Sequence[BuildSettings]) -> Iterator[bool]:
    """Say whether this process builds, which the first of several does; any other helps it to train until it is done.

    Args:
        builds: as all of them were asked for.
    """
    ranks = join_ranks(builds[0].device)
    if ranks.is_first:
        try:
            yield True
        finally:
            ranks.agree(False)
        return
    while ranks.agree(False):
        plan = make_plan(builds[0], Quiet())
        with suppress(EdgetlError):  # of which the first tells
            train_together(plan, head_on(plan), Quiet())
    yield False


def train_together(plan: Plan, classifier: Classifier, progress: Progress) -> tuple[History, float]:
    """Return the history of fine-tuning, and the rate that the backbone was trained at; the others of the processes
    that were started together train with this one.

    Raises:
        TrainingError: as `tune`.
    """
    ranks = join_ranks(plan.settings.device)
    if ranks.is_first:
        ranks.agree(True)
    bench = replace(plan.bench(progress), ranks=ranks)
    train, held, how = plan.photos.train, plan.photos.held, plan.borderless
    settings, checkpoint = tuning_of(plan.trained, plan.settings, classifier.backbone), checkpoint_of(plan)
    if plan.settings.lr == "auto" and settings.epochs:
        begun = ranks.agree(settings_of(checkpoint))
        rate = begun.backbone_lr if begun else ranks.agree(find_rate(classifier, train, how, settings, bench))
        settings = tuning_of(plan.trained, plan.settings, classifier.backbone, rate)
    log = plan.settings.log if ranks.is_first else "none"
    with open_log(log, plan.settings.out.name, settings) as note:
        history = tune(classifier, train, held, how, settings, replace(bench, note=note), checkpoint)
    return history, settings.backbone_lr


def checkpoint_of(plan: Plan) -> Path:
    """Return the folder that keeps where fine-tuning stands after each epoch."""
    return cache_folder() / "checkpoints" / plan.trained.tuned.key[:20]
