"""Heads: what is put on a backbone's features. One function a kind."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from edgetl.finetune.probe import Linear, choose_strength, fit_probe, folds, sampled, spread_of
from edgetl.records import FloatArray, HeadKind, IntArray

__all__ = ["Classifier", "Head", "fit_head", "new_head", "pick_head"]

# Photos a class up to which prototypes answer better than a linear head (squeezenet1_1 on TrashNet: by 0.6 to 0.9
# points with one to three; with five both are the same).
FEW = 5
# Logits of a prototype that points where the photo does; Gidaris and Komodakis 2018 train theirs to about as much.
SHARPNESS = 10.0
# The MLP: its hidden layer, and how it is trained; the usual epochs are for classes of one photo.
HIDDEN, DROPOUT, BATCH, RATE, DECAY = 256, 0.5, 64, 1e-3, 0.05
MOST_EPOCHS, USUAL_EPOCHS = 40, 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """A head that was fitted on features: its module, and the strength that was chosen for it, where it has one."""

    kind: HeadKind
    module: nn.Module
    strength: float | None = None

    def logits(self, features: FloatArray) -> FloatArray:
        """Return logits of shape (images, classes) for features of shape (images, features)."""
        with torch.inference_mode():
            logits: FloatArray = self.module.eval()(torch.from_numpy(np.array(features))).numpy()
        return logits


class Classifier(nn.Module):
    """A backbone with a head: normalised photos of shape (images, 3, side, side) to logits (images, classes)."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, photos: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        logits: torch.Tensor = self.head(self.backbone(photos))
        return logits


def pick_head(labels: IntArray) -> HeadKind:
    """Return the kind of head that suits photos of these classes: prototypes where no class has more than five."""
    return "prototype" if np.bincount(labels).max() <= FEW else "linear"


def new_head(kind: HeadKind, features: int, classes: int) -> nn.Module:
    """Return a head that has learnt nothing, to be given a state: `features` numbers a photo in, `classes` out."""
    if kind == "mlp":
        return nn.Sequential(
            nn.Linear(features, HIDDEN), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(HIDDEN, classes)
        )  # fmt: skip
    return nn.Linear(features, classes)


def fit_head(kind: HeadKind, views: Sequence[FloatArray], labels: IntArray, classes: int, seed: int) -> Head:
    """Return a head of a kind, fitted on the features of photos.

    Args:
        kind: `linear`, softmax regression whose strength is chosen by cross-validation; `mlp`, a hidden layer with
            dropout, trained for as long as cross-validation says; `prototype`, the mean direction of each class's
            features (a cosine classifier: a photo's own length is the same for every class, so it is left out).
        views: features of the same photos seen in different ways, each of shape (images, features), maybe on disk.
        labels: the photos' classes, shape (images,).
        classes: how many there are.
        seed: of folds, weights and order.
    """
    return FITS[kind](views, labels, classes, seed)


def _linear(views: Sequence[FloatArray], labels: IntArray, classes: int, seed: int) -> Head:
    strength = choose_strength(views, labels, classes, seed)
    probe = fit_probe(views, labels, classes, strength)
    return Head(kind="linear", module=_module(probe), strength=strength)


def _prototype(views: Sequence[FloatArray], labels: IntArray, classes: int, seed: int) -> Head:
    sums, length = np.zeros((classes, views[0].shape[1])), 0.0
    for view in views:
        lengths = np.maximum(np.linalg.norm(view, axis=1), 1e-6)
        np.add.at(sums, labels, view / lengths[:, np.newaxis])
        length += float(lengths.mean()) / len(views)
    towards = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-6)
    weight = (SHARPNESS / length * towards).astype(np.float32)
    return Head(kind="prototype", module=_module(Linear(weight=weight, bias=np.zeros(classes, dtype=np.float32))))


def _mlp(views: Sequence[FloatArray], labels: IntArray, classes: int, seed: int) -> Head:
    few, few_labels = sampled(views, labels, seed)
    losses = np.zeros(MOST_EPOCHS)
    for train, test in folds(few_labels, seed):
        asked = torch.from_numpy(few[0][test])
        for epoch, module in enumerate(_epochs([view[train] for view in few], few_labels[train], classes, seed)):
            with torch.inference_mode():
                losses[epoch] += len(test) * float(F.cross_entropy(module(asked), torch.from_numpy(few_labels[test])))
    best = 1 + int(losses.argmin()) if losses.any() else USUAL_EPOCHS
    # As many steps as the sample took: of many photos an epoch is more of them.
    epochs = max(1, round(best * len(few_labels) / len(labels)))
    return Head(kind="mlp", module=next(islice(_epochs(views, labels, classes, seed), epochs - 1, None)))


def _epochs(views: Sequence[FloatArray], labels: IntArray, classes: int, seed: int) -> Iterator[nn.Module]:
    """Yield the MLP after each epoch of its training, ready to answer; it takes features as they are."""
    mean, scale = (torch.from_numpy(each.astype(np.float32)) for each in spread_of(views))
    torch.manual_seed(seed)
    draw = np.random.default_rng(seed)
    learnt = new_head("mlp", len(mean), classes)
    optimizer = torch.optim.AdamW(learnt.parameters(), lr=RATE, weight_decay=DECAY)
    for _ in range(MOST_EPOCHS):
        learnt.train()
        for rows in np.array_split(draw.permutation(len(labels)), -(-len(labels) // BATCH)):
            view = views[int(draw.integers(len(views)))]
            features = (torch.from_numpy(view[rows]) - mean) / scale
            loss = F.cross_entropy(learnt(features), torch.from_numpy(labels[rows]))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        asked = copy.deepcopy(learnt).eval().requires_grad_(False)
        weight, bias = asked.get_parameter("0.weight"), asked.get_parameter("0.bias")
        weight.div_(scale)
        bias.sub_(weight @ mean)
        yield asked


def _module(probe: Linear) -> nn.Linear:
    """Return a probe as a layer."""
    classes, features = probe.weight.shape
    layer = nn.Linear(features, classes).requires_grad_(False)
    layer.weight.copy_(torch.from_numpy(probe.weight))
    layer.bias.copy_(torch.from_numpy(probe.bias))
    return layer


FITS: dict[HeadKind, Callable[[Sequence[FloatArray], IntArray, int, int], Head]] = {
    "linear": _linear,
    "mlp": _mlp,
    "prototype": _prototype,
}
