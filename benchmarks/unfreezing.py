"""Compare ways of unfreezing on few photos: each from the same frozen stage, on the same splits, in turn.

    python benchmarks/unfreezing.py [--photos 20] [--splits 5] [--asked 80] [--epochs 7]

Each split draws `photos` a class from TrashNet's training photos and asks `asked` others a class; its val photos are
left alone. As `edgetl build` does, a tenth of what is drawn chooses the state that is kept.
"""

from __future__ import annotations

import argparse
import copy
import time
from dataclasses import dataclass

import numpy as np
import torch
from recording import assets, save_result
from scipy import stats

from edgetl.backbones import Backbone, choose_weights, load_backbone
from edgetl.data import Dataset, Item, balanced, hold_out, labels_of, read_dataset
from edgetl.finetune import Classifier, TuneSettings, Workbench, classifier_logits, fit_head, tune
from edgetl.finetune.features import extract_features
from edgetl.metrics import accuracy
from edgetl.records import Quiet

NAME, WEIGHTS = "torchvision/squeezenet1_1", "squeezenet1_1-imagenet1k.safetensors"
FIT, RATE, HEAD_RATE, HELD_OUT = "squash", 2e-4, 1e-3, 0.1
PLAIN = "all"


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """How the backbone is unfrozen."""

    unfreeze: str
    layer_decay: float = 1.0


WAYS = {
    PLAIN: Way(unfreeze="all"),
    "all, 0.8 a block": Way(unfreeze="all", layer_decay=0.8),
    "gradual": Way(unfreeze="gradual"),
    "gradual, 0.8 a block": Way(unfreeze="gradual", layer_decay=0.8),
}


def draw(dataset: Dataset, photos: int, asked: int, seed: int) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """Return photos to train on and others to ask, so many a class each."""
    pool = dataset.of("train")
    few = balanced(pool, photos * len(dataset.labels), seed)
    rest = set(pool) - set(few)
    return few, balanced(rest, asked * len(dataset.labels), seed)


def run(way: Way, start: Classifier, parts: tuple[tuple[Item, ...], ...], backbone: Backbone, bench: Workbench,
        epochs: int, seed: int) -> tuple[float, float]:  # fmt: skip
    """Return the accuracy on the photos that are asked, in percent, and the seconds of fine-tuning."""
    train, held, asked = parts
    classifier, how = copy.deepcopy(start), backbone.preprocess.model_copy(update={"fit": FIT})
    settings = TuneSettings(
        epochs=epochs, backbone_lr=RATE, head_lr=HEAD_RATE, unfreeze=way.unfreeze, layer_decay=way.layer_decay,
        seed=seed,
    )  # fmt: skip
    began = time.perf_counter()
    tune(classifier, train, held, how, settings, bench)
    seconds = time.perf_counter() - began
    answers = classifier_logits(classifier, asked, how, bench).argmax(axis=1)
    return 100 * accuracy(answers, labels_of(asked)), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=20)
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--asked", type=int, default=80)
    parser.add_argument("--epochs", type=int, default=7)
    options = parser.parse_args()
    dataset = read_dataset(str(assets() / "data" / "trashnet"), seed=0)
    bench = Workbench(dataset=dataset, device=torch.device("cpu"), progress=Quiet())
    found: dict[str, list[float]] = {"frozen": [], **{name: [] for name in WAYS}}
    took: dict[str, list[float]] = {name: [] for name in WAYS}
    for split in range(options.splits):
        few, asked = draw(dataset, options.photos, options.asked, split)
        train, held = hold_out(few, HELD_OUT, split)
        backbone = load_backbone(NAME, choose_weights(NAME, str(assets() / "weights" / WEIGHTS), seed=0))
        how = backbone.preprocess.model_copy(update={"fit": FIT})
        features = [extract_features(backbone, part, how, bench) for part in (train, asked)]
        head = fit_head("linear", [features[0]], labels_of(train), len(dataset.labels), split)
        found["frozen"].append(100 * accuracy(head.logits(features[1]).argmax(axis=1), labels_of(asked)))
        start = Classifier(backbone.module, head.module)
        for name, way in WAYS.items():
            right, seconds = run(way, start, (train, held, asked), backbone, bench, options.epochs, split)
            found[name].append(right)
            took[name].append(seconds)
        print(split, {name: round(each[-1], 1) for name, each in found.items()}, flush=True)
    gains = {
        name: {
            "mean": float(np.mean(found[name])),
            "gain": float(np.mean(differences)),
            "p": float(stats.ttest_1samp(differences, 0).pvalue) if np.ptp(differences) else 1.0,
            "seconds": float(np.mean(took[name])),
        }
        for name in WAYS
        for differences in [np.subtract(found[name], found[PLAIN])]
    }
    save_result(
        "unfreezing",
        {"backbone": NAME, **vars(options), "frozen": float(np.mean(found["frozen"])), "ways": gains,
         "samples": {"accuracy": found, "seconds": took}},
    )  # fmt: skip


if __name__ == "__main__":
    main()
