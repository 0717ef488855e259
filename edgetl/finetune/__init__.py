"""Transfer learning: the frozen feature-extractor stage, then fine-tuning."""

from edgetl.finetune.aware import Rounding, tune_aware
from edgetl.finetune.device import as_input, pick_device
from edgetl.finetune.features import write_features
from edgetl.finetune.head import Classifier, LinearHead, fit_head
from edgetl.finetune.loop import TuneSettings, classifier_logits, tune
from edgetl.finetune.unfreeze import trained_blocks
from edgetl.finetune.views import choose_view
from edgetl.finetune.workbench import Workbench

__all__ = [
    "Classifier",
    "LinearHead",
    "Rounding",
    "TuneSettings",
    "Workbench",
    "as_input",
    "choose_view",
    "classifier_logits",
    "fit_head",
    "pick_device",
    "trained_blocks",
    "tune",
    "tune_aware",
    "write_features",
]
