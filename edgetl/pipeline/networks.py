"""Networks between stages: built, loaded with what training gave, and written."""

from __future__ import annotations

import time
from pathlib import Path

from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from edgetl.bundle import write_file
from edgetl.finetune import Classifier, new_head
from edgetl.outcomes import History
from edgetl.pipeline.plan import CLASSIFIER, HEAD, Plan
from edgetl.pipeline.results import Frozen, Tuned
from edgetl.pipeline.stages import Stage, write_record

__all__ = ["head_on", "leave_network", "state_bytes", "trained_by"]


def head_on(plan: Plan) -> Classifier:
    """Return the pretrained backbone with the frozen stage's head."""
    stage = plan.trained.frozen
    head = new_head(stage.read("frozen", Frozen).head, plan.backbone.features, len(plan.photos.dataset.labels))
    head.load_state_dict(load_tensors((stage.folder / HEAD).read_bytes()))
    return Classifier(plan.backbone.module, head)


def trained_by(stage: Stage, plan: Plan) -> Classifier:
    """Return the network that a stage left, ready to answer."""
    classifier = head_on(plan)
    classifier.load_state_dict(load_tensors((stage.folder / CLASSIFIER).read_bytes()))
    classifier.requires_grad_(False).eval()
    return classifier


def leave_network(folder: Path, classifier: Classifier, history: History, rate: float, started: float) -> None:
    """Write a network and what its training at a rate came to; `started` is by `time.perf_counter`."""
    write_file(folder / CLASSIFIER, state_bytes(classifier))
    write_record(folder, "tuned", Tuned(history=history, rate=rate, seconds=time.perf_counter() - started))


def state_bytes(network: nn.Module) -> bytes:
    """Return a network's state as safetensors."""
    state = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    content: bytes = save_tensors(state)
    return content
