"""Fine-tuning: epochs of training at a low rate, judged on held-out photos, ending in the best state."""

from __future__ import annotations

import copy
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch.utils.data import DataLoader

from edgetl.backbones import freeze
from edgetl.data import Item, image_batches, labels_of
from edgetl.errors import TrainingError
from edgetl.finetune.augment import AugmentedPhotos, EpochOrder
from edgetl.finetune.device import as_input, autocast, normalise
from edgetl.finetune.head import Classifier
from edgetl.finetune.unfreeze import Unfreezing, trained_groups
from edgetl.finetune.workbench import Workbench
from edgetl.metrics import accuracy
from edgetl.outcomes import Epoch, History
from edgetl.records import FloatArray, Preprocess, Record, Unfreeze

__all__ = ["TuneSettings", "classifier_logits", "tune"]

EVALUATION_BATCH = 32


class TuneSettings(Record):
    """How fine-tuning goes."""

    epochs: int = Field(ge=0, le=10_000)
    batch: int = Field(default=16, ge=2, le=65_536)
    backbone_lr: float = Field(default=2e-4, gt=0, le=1, allow_inf_nan=False)
    head_lr: float = Field(default=1e-3, gt=0, le=1, allow_inf_nan=False)
    weight_decay: float = Field(default=0.02, ge=0, le=1)
    unfreeze: Unfreeze = "all"
    layer_decay: float = Field(default=1.0, gt=0, le=1, description="of a block's rate, of that of the one behind it")
    mirror: bool = Field(default=True, description="whether a mirrored photo is the same thing")
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    warm_up: float = Field(default=0.1, ge=0, lt=1, description="share of the steps in which the rate rises")
    patience: int = Field(default=5, ge=1, description="epochs without a better held-out answer before stopping")
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """What training for one epoch came to, before it is judged."""

    epoch: int
    loss: float | None
    seconds: float


def tune(
    classifier: Classifier,
    train: Sequence[Item],
    held: Sequence[Item],
    how: Preprocess,
    settings: TuneSettings,
    bench: Workbench,
) -> History:
    """Return the history of fine-tuning; the classifier ends, frozen, in the state that answered best when held out.

    Args:
        classifier: with the head of the frozen stage.
        train: photos to train on.
        held: photos held out of training, which choose the state that is kept and when to stop.
        how: the preprocessing.
        settings: rates, epochs and the like.
        bench: where training runs, on which photos.

    Raises:
        SettingsError: more blocks are to be trained than there are.
        TrainingError: a loss is not finite; the classifier is in the best state so far.
    """
    run = _Run(classifier, train, how, settings, bench)
    best_state = copy.deepcopy(classifier.state_dict())
    try:
        best = _judge(classifier, held, how, bench, Trained(epoch=0, loss=None, seconds=0.0))
    except _DivergenceError as diverged:
        raise TrainingError(f"the frozen stage's head cannot be trained on: {diverged}") from None
    epochs = [best]
    if settings.epochs:
        bench.progress.say(f"before: held out {100 * best.held_out_accuracy:.1f} %")
    try:
        for number in range(1, settings.epochs + 1):
            now = _judge(classifier, held, how, bench, run.train_epoch(number))
            epochs.append(now)
            bench.progress.say(
                f"epoch {number}: loss {now.train_loss:.3f}, held out {100 * now.held_out_accuracy:.1f} %, "
                f"{now.seconds:.0f} s"
            )
            if (now.held_out_accuracy, -now.held_out_loss) > (best.held_out_accuracy, -best.held_out_loss):
                best, best_state = now, copy.deepcopy(classifier.state_dict())
            if number - best.epoch >= settings.patience:
                break
    except _DivergenceError as diverged:
        raise TrainingError(
            f"training diverged: {diverged}. The best state so far is that of epoch {best.epoch}, with "
            f"{100 * best.held_out_accuracy:.1f} % of the held-out photos right. Try again with a lower --lr, or "
            "fewer epochs"
        ) from None
    finally:
        classifier.load_state_dict(best_state)
        freeze(classifier)
    return History(epochs=tuple(epochs), best=best.epoch)


def classifier_logits(classifier: Classifier, items: Sequence[Item], how: Preprocess, bench: Workbench) -> FloatArray:
    """Return the classifier's logits, shape (items, classes), in eval mode and float32."""
    classifier.eval().to(bench.device)
    with torch.inference_mode():
        return np.concatenate(
            [
                classifier(as_input(images, how, bench.device)).cpu().numpy()
                for images in image_batches(bench.dataset, items, how, EVALUATION_BATCH)
            ]
        )


class _DivergenceError(Exception):
    """A loss is not finite; says which, and when."""


class _Run:
    """The moving parts of one fine-tuning: optimizer, schedule, loader."""

    def __init__(
        self, classifier: Classifier, train: Sequence[Item], how: Preprocess, settings: TuneSettings, bench: Workbench
    ) -> None:
        torch.manual_seed(settings.seed)
        self.classifier, self.how, self.settings, self.bench = classifier, how, settings, bench
        classifier.to(bench.device).to(memory_format=torch.channels_last)
        self.unfreezing = Unfreezing(classifier, settings.unfreeze, settings.epochs)
        groups = trained_groups(
            classifier,
            self.unfreezing.blocks,
            settings.backbone_lr,
            settings.head_lr,
            settings.weight_decay,
            settings.layer_decay,
        )
        self.optimizer = torch.optim.AdamW(groups)
        self.order = EpochOrder(len(train), settings.batch, settings.seed)
        steps = max(1, len(self.order) * settings.epochs)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: _rate(step / steps, settings.warm_up)
        )
        on_cuda = bench.device.type == "cuda"
        # bfloat16 has float32's range; float16 needs its gradients scaled.
        self.scaler = torch.amp.GradScaler(bench.device.type, enabled=on_cuda and not torch.cuda.is_bf16_supported())
        workers = _workers(len(train))
        self.loader = DataLoader(
            AugmentedPhotos(bench.dataset, train, how, settings.mirror, settings.seed),
            batch_sampler=self.order,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=on_cuda,
            # A fresh interpreter a process would need every caller's script to guard its main part.
            multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
            # Else it draws from the global generator, more or less often by the number of processes.
            generator=torch.Generator().manual_seed(settings.seed),
        )

    def train_epoch(self, number: int) -> Trained:
        """Return what one epoch of training came to.

        Raises:
            _DivergenceError: the loss is not finite; nothing has been learnt from it.
        """
        started, total, device = time.perf_counter(), 0.0, self.bench.device
        self.order.epoch = number
        self.unfreezing.begin(number)
        what, photos = f"fine-tuning, epoch {number} of {self.settings.epochs}", len(self.order) * self.settings.batch
        with self.bench.progress.count(what, photos) as advance:
            for pixels, labels in self.loader:
                batch = normalise(pixels.to(device, non_blocking=True), self.how)
                with autocast(device):
                    logits = self.classifier(batch)
                loss = F.cross_entropy(logits.float(), labels.to(device), label_smoothing=self.settings.label_smoothing)
                if not math.isfinite(loss.item()):
                    raise _DivergenceError(f"the loss became {loss.item()} in epoch {number}")
                self.optimizer.zero_grad(set_to_none=True)
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
                self.scaler.step(self.optimizer)
                self.scaler.update()
                self.schedule.step()
                total += loss.item()
                advance(len(labels))
        return Trained(epoch=number, loss=total / max(1, len(self.order)), seconds=time.perf_counter() - started)


def _judge(classifier: Classifier, held: Sequence[Item], how: Preprocess, bench: Workbench, trained: Trained) -> Epoch:
    """Return an epoch with what the held-out photos say of it.

    Raises:
        _DivergenceError: the held-out loss is not finite; the last step of an epoch is seen only here.
    """
    logits = classifier_logits(classifier, held, how, bench)
    labels = labels_of(held)
    loss = float(F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels)))
    if not math.isfinite(loss):
        raise _DivergenceError(f"the held-out loss became {loss} in epoch {trained.epoch}")
    return Epoch(
        epoch=trained.epoch,
        train_loss=trained.loss,
        held_out_loss=loss,
        held_out_accuracy=accuracy(logits.argmax(axis=1), labels),
        seconds=trained.seconds,
    )


def _rate(done: float, warm_up: float) -> float:
    """Return the share of the full learning rate after a share of the steps: a linear rise, then a cosine."""
    if done < warm_up:
        return max(done / warm_up, 0.01)
    return 0.5 * (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up)))


def _workers(photos: int) -> int:
    """Return how many processes load photos: none where starting them takes longer than loading."""
    return 0 if photos < 256 else min(8, os.cpu_count() or 1)
