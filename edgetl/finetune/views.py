"""Chooses how photos are seen: fitted to the square how, and whether a mirrored photo is the same thing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np

from edgetl.backbones import Backbone
from edgetl.data import Item, hold_out, labels_of
from edgetl.finetune.features import extract_features
from edgetl.finetune.probe import cross_validated
from edgetl.finetune.workbench import Workbench
from edgetl.outcomes import ViewChoice
from edgetl.records import Fit

__all__ = ["choose_view"]

# Photos probed at the most: enough to tell 3 points apart.
SAMPLE = 500
# A mirrored photo is the same thing if probes that never saw one lose no more than this share of answers.
MIRROR_LOSS = 0.03


def choose_view(backbone: Backbone, items: Sequence[Item], fit: Fit | None, seed: int, bench: Workbench) -> ViewChoice:
    """Return the view on which cross-validated linear probes answer best, on a sample of training photos.

    Args:
        backbone: whose features are probed.
        items: training photos; nothing held out is among them.
        fit: what the user asked for, or None to choose among all.
        seed: draws the sample.
        bench: where the backbone runs, on which photos.
    """
    sample = tuple(items)
    if len(sample) > SAMPLE:
        _, sample = hold_out(sample, SAMPLE / len(sample), seed)
    counts = np.bincount(labels_of(sample), minlength=len(bench.dataset.labels))
    # A class of one photo cannot be on both sides of a fold.
    sample = tuple(item for item in sample if counts[item.label] >= 2)
    candidates: tuple[Fit, ...] = (fit,) if fit else get_args(Fit)
    if len({item.label for item in sample}) < 2:
        bench.progress.say(f"too few training photos to choose how they are seen: {candidates[0]}, not mirrored")
        return ViewChoice(fit=candidates[0], mirror=False, fit_accuracy={}, mirrored_accuracy=None)
    labels = labels_of(sample)
    features = {
        one: extract_features(backbone, sample, backbone.preprocess.model_copy(update={"fit": one}), bench)
        for one in candidates
    }
    scores = {one: cross_validated(features[one], labels, seed=seed) for one in candidates}
    best = max(candidates, key=lambda one: scores[one])
    how = backbone.preprocess.model_copy(update={"fit": best})
    turned = extract_features(backbone, sample, how, bench, mirror=True)
    mirrored = cross_validated(features[best], labels, mirrored=turned, seed=seed)
    return ViewChoice(
        fit=best, mirror=mirrored >= scores[best] - MIRROR_LOSS, fit_accuracy=scores, mirrored_accuracy=mirrored
    )
