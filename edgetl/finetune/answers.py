"""What a classifier answers photos."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from edgetl.data import Item, image_batches
from edgetl.finetune.device import as_input
from edgetl.finetune.head import Classifier
from edgetl.finetune.workbench import Workbench
from edgetl.records import FloatArray, Preprocess

__all__ = ["EVALUATION_BATCH", "classifier_logits"]

EVALUATION_BATCH = 32


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
