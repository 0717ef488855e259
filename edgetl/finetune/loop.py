"""Fine-tuning: epochs of training at a low rate, judged on held-out photos, ending in the best state."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain, count, islice
from pathlib import Path

import numpy as np

from edgetl.backbones import freeze
from edgetl.data import Item
from edgetl.errors import TrainingError
from edgetl.finetune.checkpoint import State, load_checkpoint, save_checkpoint
from edgetl.finetune.head import Classifier
from edgetl.finetune.run import DivergenceError, Run
from edgetl.finetune.workbench import Workbench
from edgetl.options import TuneSettings
from edgetl.outcomes import History
from edgetl.records import Preprocess

__all__ = ["find_rate", "tune"]

# The range test: from which rate of the backbone to which, in how many steps, how much the loss may grow before it
# ends, the pace of its running mean, and how far below the rate of the least loss one trains.
LOWEST, HIGHEST, TESTED, BLOWN, PACE, BELOW = 1e-6, 0.1, 60, 4.0, 0.1, 10.0


def tune(
    classifier: Classifier,
    train: Sequence[Item],
    held: Sequence[Item],
    how: Preprocess,
    settings: TuneSettings,
    bench: Workbench,
    checkpoint: Path | None = None,
) -> History:
    """Return the history of fine-tuning; the classifier ends, frozen, in the state that answered best when held out.

    Args:
        classifier: with the head of the frozen stage.
        train: photos to train on.
        held: photos held out of training, which choose the state that is kept and when to stop.
        how: the preprocessing.
        settings: rates, epochs and the like.
        bench: where training runs, on which photos.
        checkpoint: folder that keeps where it stands after each epoch; one that is there already is gone on with, and
            on a CPU the end is the same, bit for bit, as without a stop. It stays when all is done.

    Raises:
        SettingsError: more blocks are to be trained than there are, or the checkpoint is of other settings.
        TrainingError: a loss is not finite, or not even one photo at a time fits into the GPU's memory; the classifier
            is in the best state so far.
    """
    run = Run(classifier, train, how, settings, bench)
    begun = load_checkpoint(checkpoint, settings) if checkpoint else None
    best_state: State = copy.deepcopy(classifier.state_dict())
    try:
        if begun:
            epochs, best_state = [*begun.history.epochs], begun.best
            best = epochs[begun.history.best]
            run.go_on(begun)
            bench.progress.say(f"going on after epoch {epochs[-1].epoch}, where training was stopped")
        else:
            best = run.judge(held, 0, None, 0.0)
            epochs = [best]
            if settings.epochs:
                bench.progress.say(f"before: held out {100 * best.held_out_accuracy:.1f} %")
    except DivergenceError as diverged:
        raise TrainingError(f"the frozen stage's head cannot be trained on: {diverged}") from None
    try:
        for number in range(len(epochs), settings.epochs + 1):
            if number > best.epoch + settings.patience:
                break
            # Together they stop together, and keep the same state.
            now = bench.ranks.agree(run.judge(held, number, *run.train_epoch(number)))
            epochs.append(now)
            if bench.note:
                bench.note(now)
            bench.progress.say(
                f"epoch {number}: loss {now.train_loss:.3f}, held out {100 * now.held_out_accuracy:.1f} %, "
                f"{now.seconds:.0f} s"
            )
            if (now.held_out_accuracy, -now.held_out_loss) > (best.held_out_accuracy, -best.held_out_loss):
                best, best_state = now, copy.deepcopy(run.judged.state_dict())
            if checkpoint and bench.ranks.is_first:
                history = History(epochs=tuple(epochs), best=best.epoch)
                save_checkpoint(checkpoint, settings, run.stand(history, best_state))
    except DivergenceError as diverged:
        raise TrainingError(
            f"training diverged: {diverged}. The best state so far is that of epoch {best.epoch}, with "
            f"{100 * best.held_out_accuracy:.1f} % of the held-out photos right. Try again with a lower --lr, or "
            "fewer epochs"
        ) from None
    finally:
        classifier.load_state_dict(best_state)
        freeze(classifier)
    return History(epochs=tuple(epochs), best=best.epoch)


def find_rate(
    classifier: Classifier, train: Sequence[Item], how: Preprocess, settings: TuneSettings, bench: Workbench
) -> float:
    """Return the rate for the backbone that a range test finds (Smith 2017): it rises step by step until the loss blows
    up, and a tenth of the rate at which the loss was least is taken. The classifier stays as it is.

    Args:
        classifier: with the head of the frozen stage.
        train: photos to train on.
        how: the preprocessing.
        settings: all but the rates; the head's rises with the backbone's, in their proportion.
        bench: where training runs, on which photos.
    """
    growth = (HIGHEST / LOWEST) ** (1 / (TESTED - 1))
    rates = {"backbone_lr": LOWEST, "head_lr": LOWEST * settings.head_lr / settings.backbone_lr}
    tested = settings.model_copy(
        update={**rates, "epochs": TESTED, "unfreeze": settings.unfreeze.replace("gradual", "all")}
    )
    run = Run(copy.deepcopy(classifier), train, how, tested, bench, rate=lambda step: growth**step)
    losses: list[float] = []
    steps = chain.from_iterable(map(run.steps, count(1)))
    with suppress(DivergenceError), bench.progress.count("looking for a rate", TESTED) as advance:
        for loss, _ in islice(steps, TESTED):
            losses.append(loss if not losses else losses[-1] + PACE * (loss - losses[-1]))
            advance(1)
            if losses[-1] > BLOWN * min(losses):
                break
    found = LOWEST * growth ** int(np.argmin(losses)) / BELOW if losses else LOWEST
    bench.progress.say(f"rate {found:.1e}: a tenth of the one at which the loss was least")
    return found
