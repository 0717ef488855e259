"""One fine-tuning as it runs: its optimizer, its schedule, its steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.transforms import v2

from edgetl.data import Item, labels_of
from edgetl.errors import SettingsError, TrainingError
from edgetl.finetune.answers import classifier_logits
from edgetl.finetune.augment import AugmentedPhotos, EpochOrder, load_photos
from edgetl.finetune.checkpoint import Checkpoint, State
from edgetl.finetune.device import autocast, mixed_type, normalise
from edgetl.finetune.head import Classifier
from edgetl.finetune.rates import SCHEDULES
from edgetl.finetune.unfreeze import Unfreezing, trained_groups
from edgetl.finetune.workbench import Workbench
from edgetl.metrics import accuracy
from edgetl.options import TuneSettings
from edgetl.outcomes import Epoch, History
from edgetl.records import IntArray, Preprocess

__all__ = ["DivergenceError", "Run"]

Batch = tuple[torch.Tensor, torch.Tensor]


class DivergenceError(Exception):
    """A loss is not finite; says which, and when."""


class Run:
    """The moving parts of one fine-tuning: optimizer, schedule, loader, averaged weights.

    `judged` is the network that answers: the one that is trained, or the one with its averaged weights.
    """

    def __init__(
        self,
        classifier: Classifier,
        train: Sequence[Item],
        how: Preprocess,
        settings: TuneSettings,
        bench: Workbench,
        rate: Callable[[int], float] | None = None,
    ) -> None:
        if settings.batch < bench.ranks.count:
            raise SettingsError(
                f"--batch {settings.batch} leaves some of {bench.ranks.count} processes without a photo. Say "
                f"--batch {8 * bench.ranks.count}, or start fewer"
            )
        torch.manual_seed(settings.seed + bench.ranks.number)
        self.classifier, self.how, self.settings, self.bench = classifier, how, settings, bench
        classifier.to(bench.device).to(memory_format=torch.channels_last)
        self.network = torch.compile(classifier) if settings.compile else classifier
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
        labels, classes = labels_of(train), len(bench.dataset.labels)
        evened = _evened(labels, classes)
        shares = evened[labels] / evened[labels].sum() if settings.balance == "sampler" else None
        self.order = EpochOrder(len(train), settings.batch, settings.seed, shares, bench.ranks)
        weights = torch.from_numpy(evened.astype(np.float32)).to(bench.device)
        self.weights = weights if settings.balance == "loss" else None
        steps = max(1, -(-len(self.order) // settings.accumulate) * settings.epochs)
        schedule = SCHEDULES[settings.schedule]
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, rate or (lambda step: schedule(step / steps)))
        # bfloat16 has float32's range; float16 needs its gradients scaled.
        scaled = mixed_type(bench.device, settings.amp) is torch.float16
        self.scaler = torch.amp.GradScaler(bench.device.type, enabled=scaled)
        photos = AugmentedPhotos(bench.dataset, train, how, settings.mirror, settings.seed, settings.augment)
        self.loader = load_photos(photos, self.order, bench.device, settings.seed)
        alphas = {v2.MixUp: settings.mixup, v2.CutMix: settings.cutmix}
        self.mixing = [mix(alpha=alpha, num_classes=classes) for mix, alpha in alphas.items() if alpha]
        follow = get_ema_multi_avg_fn(settings.ema)  # type: ignore[no-untyped-call]
        self.average = AveragedModel(classifier, multi_avg_fn=follow) if settings.ema else None
        self.judged = cast(Classifier, self.average.module) if self.average else classifier
        # Parts that a batch goes through the network in: more where a GPU's memory is too small for all at once.
        self.parts = 1

    def train_epoch(self, number: int) -> tuple[float, float]:
        """Return the mean loss of one epoch of training, and the seconds that it took; raises as `steps`."""
        started, losses = time.perf_counter(), []
        what, photos = f"fine-tuning, epoch {number} of {self.settings.epochs}", len(self.order) * self.settings.batch
        with self.bench.progress.count(what, photos) as advance:
            for loss, count in self.steps(number):
                losses.append(loss)
                advance(count)
        return sum(losses) / max(1, len(losses)), time.perf_counter() - started

    def steps(self, number: int) -> Iterator[tuple[float, int]]:
        """Train for an epoch, and yield each step's loss and how many photos it saw.

        Raises:
            TrainingError: not even one photo at a time fits into the GPU's memory.
            DivergenceError: the loss is not finite; nothing has been learnt from it.
        """
        self.order.epoch = number
        self.unfreezing.begin(number)
        batches = iter(self.loader)
        while window := [self._prepared(*batch) for batch in islice(batches, self.settings.accumulate)]:
            photos = self.bench.ranks.sum(sum(len(labels) for _, labels in window), self.bench.device)
            yield self._step(window, photos), int(photos)

    def judge(self, held: Sequence[Item], number: int, train_loss: float | None, seconds: float) -> Epoch:
        """Return an epoch with what the held-out photos say of it.

        Args:
            held: photos held out of training.
            number: of the epoch; 0 is the state before training.
            train_loss: its mean loss, None before training.
            seconds: that it took.

        Raises:
            DivergenceError: the held-out loss is not finite; the last step of an epoch is seen only here.
        """
        logits, labels = classifier_logits(self.judged, held, self.how, self.bench), labels_of(held)
        loss = float(F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels)))
        if not math.isfinite(loss):
            raise DivergenceError(f"the held-out loss became {loss} in epoch {number}")
        return Epoch(
            epoch=number,
            train_loss=train_loss,
            held_out_loss=loss,
            held_out_accuracy=accuracy(logits.argmax(axis=1), labels),
            seconds=seconds,
        )

    def stand(self, history: History, best: State) -> Checkpoint:
        """Return where training stands."""
        rest = {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average.state_dict() if self.average else {},
            "random": torch.get_rng_state(),
            "parts": self.parts,
        }
        return Checkpoint(history=history, now=self.classifier.state_dict(), best=best, rest=rest)

    def go_on(self, begun: Checkpoint) -> None:
        """Take up training where a checkpoint stands."""
        self.classifier.load_state_dict(begun.now)
        self.optimizer.load_state_dict(begun.rest["optimizer"])
        self.schedule.load_state_dict(begun.rest["schedule"])
        self.scaler.load_state_dict(begun.rest["scaler"])
        if self.average:
            self.average.load_state_dict(begun.rest["average"])
        torch.set_rng_state(begun.rest["random"])
        self.parts = begun.rest["parts"]

    def _prepared(self, pixels: torch.Tensor, labels: torch.Tensor) -> Batch:
        """Return a batch as the network reads it; of mixed photos, the labels are shares of classes."""
        device = self.bench.device
        batch: Batch = normalise(pixels.to(device, non_blocking=True), self.how), labels.to(device)
        if self.mixing:
            batch = self.mixing[int(torch.randint(len(self.mixing), ()))](*batch)
        return batch

    def _step(self, window: list[Batch], photos: float) -> float:
        """Return the mean loss of some batches, of so many photos in all processes, after learning from them."""
        while True:
            try:
                loss = self._gradients(window, photos)
                break
            except torch.OutOfMemoryError:
                self.optimizer.zero_grad(set_to_none=True)
                largest = max(len(labels) for _, labels in window)
                if self.parts >= largest:
                    raise TrainingError("not even one photo at a time fits into the GPU's memory") from None
                torch.cuda.empty_cache()
                self.parts = min(2 * self.parts, largest)
                self.bench.progress.say(
                    f"a batch of {largest} does not fit into the GPU's memory: in {self.parts} parts"
                )
        loss = self.bench.ranks.sum(loss, self.bench.device)
        if not math.isfinite(loss):
            raise DivergenceError(f"the loss became {loss} in epoch {self.order.epoch}")
        self.bench.ranks.sum_gradients(self.classifier.parameters())
        if self.settings.clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.classifier.parameters(), self.settings.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        if self.average:
            self.average.update_parameters(self.classifier)
        return loss

    def _gradients(self, window: list[Batch], count: float) -> float:
        """Return the loss of some batches, as their part of the mean over `count` photos, after adding its gradients,
        part by part."""
        total = 0.0
        for batch, labels in window:
            for photos, wanted in zip(batch.chunk(self.parts), labels.chunk(self.parts), strict=True):
                with autocast(self.bench.device, self.settings.amp):
                    logits = self.network(photos)
                loss = F.cross_entropy(
                    logits.float(), wanted, weight=self.weights, label_smoothing=self.settings.label_smoothing
                ) * (len(photos) / count)
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
                total += loss.item()
        return total


def _evened(labels: IntArray, classes: int) -> npt.NDArray[np.float64]:
    """Return a weight for each class, shape (classes,), by which all count the same."""
    counts = np.bincount(labels, minlength=classes)
    weights: npt.NDArray[np.float64] = len(labels) / (classes * np.maximum(counts, 1))
    return weights
