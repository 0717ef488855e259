"""Fine-tuning: epochs of training at a low rate, judged on held-out photos, ending in the best state."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch.utils.data import DataLoader

from edgetl.data import Dataset, Item, image_batches
from edgetl.errors import TrainingError
from edgetl.finetune.augment import AugmentedPhotos, EpochOrder
from edgetl.finetune.device import as_input, autocast, normalise
from edgetl.finetune.head import Classifier
from edgetl.finetune.unfreeze import trained_groups
from edgetl.metrics import accuracy
from edgetl.records import FloatArray, Preprocess, Progress, Record

__all__ = ["Epoch", "History", "TuneSettings", "classifier_logits", "tune"]


class TuneSettings(Record):
    """How fine-tuning goes."""

    epochs: int = Field(ge=0, le=10_000)
    batch: int = Field(default=16, ge=2, le=65_536)
    backbone_lr: float = Field(default=3e-4, gt=0, le=1, allow_inf_nan=False)
    head_lr: float = Field(default=1e-3, gt=0, le=1, allow_inf_nan=False)
    weight_decay: float = Field(default=0.02, ge=0, le=1)
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    warm_up: float = Field(default=0.1, ge=0, lt=1, description="share of the steps in which the rate rises")
    patience: int = Field(default=5, ge=1, description="epochs without a better held-out answer before stopping")
    seed: int = 0


class Epoch(Record):
    """What one epoch came to; epoch 0 is the state before training."""

    epoch: int
    train_loss: float | None
    held_out_loss: float
    held_out_accuracy: float
    seconds: float


class History(Record):
    """Every epoch, and the one whose state is kept."""

    epochs: tuple[Epoch, ...]
    best: int


def tune(
    classifier: Classifier,
    dataset: Dataset,
    items: Sequence[Item],
    held: Sequence[Item],
    how: Preprocess,
    mirror: bool,
    settings: TuneSettings,
    device: torch.device,
    progress: Progress,
    rescue: Callable[[Classifier], str],
) -> History:
    """Return the history of fine-tuning; the classifier ends, frozen, in the state that answered best when held out.

    Args:
        classifier: with the head of the frozen stage.
        dataset: where the photos lie.
        items: training photos.
        held: training photos held out of training, which choose the state that is kept and when to stop.
        how: the preprocessing.
        mirror: whether a mirrored photo is the same thing.
        settings: rates, epochs and the like.
        device: where training runs.
        progress: shows epochs and rates.
        rescue: keeps the classifier if training diverges, and returns where.

    Raises:
        TrainingError: a loss is not finite; the best state so far has been handed to `rescue`.
    """
    torch.manual_seed(settings.seed)
    classifier.to(device).to(memory_format=torch.channels_last)
    groups = trained_groups(classifier, settings.backbone_lr, settings.head_lr, settings.weight_decay)
    optimizer = torch.optim.AdamW(groups)
    order = EpochOrder(len(items), settings.batch, settings.seed)
    steps = max(1, len(order) * settings.epochs)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step / steps, settings.warm_up))
    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda" and not torch.cuda.is_bf16_supported())
    loader = DataLoader(
        AugmentedPhotos(dataset, items, how, mirror, settings.seed),
        batch_sampler=order,
        num_workers=_workers(len(items)),
        persistent_workers=_workers(len(items)) > 0,
        pin_memory=device.type == "cuda",
        # Else it draws from the global generator, more or less often by the number of processes, and dropout differs.
        generator=torch.Generator().manual_seed(settings.seed),
    )
    wanted = np.array([item.label for item in held])

    def judge(number: int, train_loss: float | None, seconds: float) -> Epoch:
        logits = classifier_logits(classifier, dataset, held, how, device)
        return Epoch(
            epoch=number,
            train_loss=train_loss,
            held_out_loss=float(F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(wanted))),
            held_out_accuracy=accuracy(logits.argmax(axis=1), wanted),
            seconds=seconds,
        )

    def diverged(what: str, value: float, number: int) -> TrainingError:
        classifier.load_state_dict(best_state)
        return TrainingError(
            f"the {what} became {value} in epoch {number}: training diverged. The best state so far "
            f"(epoch {best.epoch}, {100 * best.held_out_accuracy:.1f} % of the held-out photos right) is "
            f"kept in {rescue(classifier)}. Try again with a lower --lr, or stop earlier with --epochs {number - 1}"
        )

    epochs = [judge(0, None, 0.0)]
    best, best_state = epochs[0], copy.deepcopy(classifier.state_dict())
    for number in range(1, settings.epochs + 1):
        started, total = time.perf_counter(), 0.0
        order.epoch = number
        classifier.train()
        with progress.count(
            f"fine-tuning, epoch {number} of {settings.epochs}", len(order) * settings.batch
        ) as advance:
            for pixels, labels in loader:
                photos = normalise(pixels.to(device, non_blocking=True), how)
                with autocast(device):
                    logits = classifier(photos)
                loss = F.cross_entropy(logits.float(), labels.to(device), label_smoothing=settings.label_smoothing)
                if not math.isfinite(loss.item()):
                    raise diverged("loss", loss.item(), number)
                optimizer.zero_grad(set_to_none=True)
                scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
                scaler.step(optimizer)
                scaler.update()
                schedule.step()
                total += loss.item()
                advance(len(labels))
        now = judge(number, total / max(1, len(order)), time.perf_counter() - started)
        if not math.isfinite(now.held_out_loss):  # the last step of an epoch is seen only here
            raise diverged("held-out loss", now.held_out_loss, number)
        epochs.append(now)
        progress.say(
            f"epoch {number}: loss {now.train_loss:.3f}, held out {100 * now.held_out_accuracy:.1f} %, "
            f"{now.seconds:.0f} s"
        )
        if (now.held_out_accuracy, -now.held_out_loss) > (best.held_out_accuracy, -best.held_out_loss):
            best, best_state = now, copy.deepcopy(classifier.state_dict())
        if number - best.epoch >= settings.patience:
            break
    classifier.load_state_dict(best_state)
    classifier.eval().requires_grad_(False)
    return History(epochs=tuple(epochs), best=best.epoch)


def classifier_logits(
    classifier: Classifier, dataset: Dataset, items: Sequence[Item], how: Preprocess, device: torch.device
) -> FloatArray:
    """Return the classifier's logits, shape (items, classes), in eval mode and float32."""
    classifier.eval().to(device)
    with torch.inference_mode():
        return np.concatenate(
            [
                classifier(as_input(images, how, device)).cpu().numpy()
                for images in image_batches(dataset, items, how, 32)
            ]
        )


def _rate(done: float, warm_up: float) -> float:
    """Return the share of the full learning rate after a share of the steps: a linear rise, then a cosine."""
    if done < warm_up:
        return max(done / warm_up, 0.01)
    return 0.5 * (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up)))


def _workers(photos: int) -> int:
    """Return how many processes load photos: none where starting them takes longer than loading."""
    return 0 if photos < 256 else min(8, os.cpu_count() or 1)
