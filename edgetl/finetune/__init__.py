"""Transfer learning: the frozen feature-extractor stage, then fine-tuning."""

from edgetl.finetune.answers import classifier_logits
from edgetl.finetune.aware import Rounding, tune_aware
from edgetl.finetune.checkpoint import remove_checkpoint, settings_of
from edgetl.finetune.device import as_input, pick_device
from edgetl.finetune.features import write_features, write_views
from edgetl.finetune.head import Classifier, fit_head, new_head, pick_head
from edgetl.finetune.log import open_log
from edgetl.finetune.loop import find_rate, tune
from edgetl.finetune.ranks import Ranks, join_ranks
from edgetl.finetune.unfreeze import trained_blocks
from edgetl.finetune.views import choose_view
from edgetl.finetune.workbench import Workbench
from edgetl.options import TuneSettings

__all__ = [
    "Classifier",
    "Ranks",
    "Rounding",
    "TuneSettings",
    "Workbench",
    "as_input",
    "choose_view",
    "classifier_logits",
    "find_rate",
    "fit_head",
    "join_ranks",
    "new_head",
    "open_log",
    "pick_device",
    "pick_head",
    "remove_checkpoint",
    "settings_of",
    "trained_blocks",
    "tune",
    "tune_aware",
    "write_features",
    "write_views",
]
