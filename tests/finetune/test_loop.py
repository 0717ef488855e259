"""Tests of edgetl/finetune/loop.py."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from edgetl.backbones import Backbone, blocks_of
from edgetl.data import Dataset, hold_out
from edgetl.errors import TrainingError
from edgetl.finetune import Classifier, LinearHead, TuneSettings, Workbench, classifier_logits, tune
from edgetl.finetune.features import extract_features
from edgetl.finetune.head import fit_head
from edgetl.finetune.loop import _rate
from edgetl.outcomes import History
from edgetl.records import Quiet

CPU = torch.device("cpu")
State = dict[str, torch.Tensor]


def state_of(classifier: Classifier) -> State:
    return {name: tensor.clone() for name, tensor in classifier.state_dict().items()}


def same(left: State, right: State) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


class Bench:
    """A small classifier and its photos."""

    def __init__(self, backbone: Backbone, dataset: Dataset, fitted: bool) -> None:
        self.dataset, self.how = dataset, backbone.preprocess
        self.rest, self.held = hold_out(dataset.of("train"), 0.2, seed=0)
        if fitted:
            train, held = (
                extract_features(backbone, items, self.how, self.workbench()) for items in (self.rest, self.held)
            )
            labels, held_labels = (np.array([item.label for item in items]) for items in (self.rest, self.held))
            head = fit_head(train, labels, held, held_labels)
        else:
            zeros = np.zeros((3, backbone.features), dtype=np.float32)
            head = LinearHead(weight=zeros, bias=np.zeros(3, dtype=np.float32), strength=1.0)
        self.classifier = Classifier(copy.deepcopy(backbone.module), head)

    def workbench(self, progress: Any = None) -> Workbench:
        return Workbench(dataset=self.dataset, device=CPU, progress=progress or Quiet())

    def tune(self, progress: Any = None, **settings: Any) -> History:
        chosen = TuneSettings(**{"epochs": 1, "batch": 8, **settings})
        return tune(self.classifier, self.rest, self.held, self.how, chosen, self.workbench(progress))


@pytest.fixture
def make(load: Callable[..., Backbone], dataset: Dataset) -> Callable[..., Bench]:
    def make(name: str = "squeezenet1_1", fitted: bool = False) -> Bench:
        return Bench(load(name), dataset, fitted)

    return make


class TestTune:
    def test_only_what_was_asked_for_learns(self, make: Callable[..., Bench]) -> None:
        bench = make("squeezenet1_1")
        before = copy.deepcopy(bench.classifier.backbone.state_dict())
        bench.tune(unfreeze="last:2", backbone_lr=0.01, head_lr=0.01)
        after, blocks = bench.classifier.backbone.state_dict(), blocks_of(bench.classifier.backbone)
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        learnt = tuple(f"{block.name}." for block in blocks[-2:])
        assert changed
        assert all(name.startswith(learnt) for name in changed)

    def test_gradually_all_blocks_learn(self, make: Callable[..., Bench]) -> None:
        bench = make("squeezenet1_1")
        before = copy.deepcopy(bench.classifier.backbone.state_dict())
        history = bench.tune(unfreeze="gradual", layer_decay=0.8, epochs=4, backbone_lr=0.01, head_lr=0.01)
        assert len(history.epochs) == 5
        assert history.best > 1
        after = bench.classifier.backbone.state_dict()
        assert not any(torch.equal(before[name], after[name]) for name in before if name.endswith("weight"))

    def test_no_epochs_change_nothing(self, make: Callable[..., Bench]) -> None:
        bench = make("mobilenet_v3_small")
        before = state_of(bench.classifier)
        history = bench.tune(epochs=0)
        assert same(state_of(bench.classifier), before)
        assert (len(history.epochs), history.best) == (1, 0)

    def test_training_learns(self, make: Callable[..., Bench]) -> None:
        history = make().tune(epochs=3, backbone_lr=1e-3, head_lr=1e-2)
        first, best = history.epochs[0], history.epochs[history.best]
        assert best.held_out_accuracy > first.held_out_accuracy
        assert best.held_out_loss < first.held_out_loss

    def test_the_classifier_ends_frozen(self, make: Callable[..., Bench]) -> None:
        bench = make()
        bench.tune()
        assert not any(parameter.requires_grad for parameter in bench.classifier.parameters())
        assert not any(module.training for module in bench.classifier.modules())

    def test_two_runs_of_a_seed_give_bit_identical_weights(self, make: Callable[..., Bench]) -> None:
        first, second = make("mobilenet_v3_small"), make("mobilenet_v3_small")
        first.tune(epochs=2, head_lr=1e-2, seed=4)
        torch.rand(7)  # what others draw in between changes nothing
        second.tune(epochs=2, head_lr=1e-2, seed=4)
        assert same(state_of(first.classifier), state_of(second.classifier))

    def test_another_seed_gives_other_weights(self, make: Callable[..., Bench]) -> None:
        first, second = make(), make()
        histories = [bench.tune(head_lr=1e-2, seed=seed) for seed, bench in enumerate((first, second))]
        assert histories[0].best == histories[1].best == 1
        assert not same(state_of(first.classifier), state_of(second.classifier))

    def test_the_number_of_loading_processes_changes_nothing(
        self, make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        alone, shared = make(), make()
        alone.tune(epochs=2, head_lr=1e-2)
        monkeypatch.setattr("edgetl.finetune.loop._workers", lambda photos: 2)
        shared.tune(epochs=2, head_lr=1e-2)
        assert same(state_of(alone.classifier), state_of(shared.classifier))

    def test_the_best_state_is_restored_where_training_makes_it_worse(self, make: Callable[..., Bench]) -> None:
        bench = make("mobilenet_v3_small", fitted=True)
        before = state_of(bench.classifier)
        history = bench.tune(epochs=2, backbone_lr=0.1, head_lr=0.1)
        assert history.epochs[-1].held_out_accuracy < history.epochs[0].held_out_accuracy
        assert history.best == 0
        assert same(state_of(bench.classifier), before)

    def test_the_state_kept_is_the_one_that_the_history_names(self, make: Callable[..., Bench]) -> None:
        bench = make()
        history = bench.tune(epochs=3, backbone_lr=1e-3, head_lr=1e-2)
        logits = classifier_logits(bench.classifier, bench.held, bench.how, bench.workbench())
        wanted = torch.tensor([item.label for item in bench.held])
        assert F.cross_entropy(torch.from_numpy(logits), wanted).item() == history.epochs[history.best].held_out_loss

    def test_it_stops_when_patience_ends(self, make: Callable[..., Bench], lines: Any) -> None:
        bench = make("mobilenet_v3_small", fitted=True)
        history = bench.tune(lines, epochs=9, patience=2, backbone_lr=0.1, head_lr=0.1)
        assert [epoch.epoch for epoch in history.epochs] == list(range(history.best + 3))
        assert len(lines.said) == 1 + history.best + 2

    def test_progress_names_epochs_and_what_they_came_to(self, make: Callable[..., Bench], lines: Any) -> None:
        make().tune(lines, epochs=1)
        assert lines.counted[0][0] == "fine-tuning, epoch 1 of 1"
        assert lines.said[0].startswith("before: held out ")
        assert lines.said[1].startswith("epoch 1: loss ")

    def test_a_history_survives_being_saved(self, make: Callable[..., Bench]) -> None:
        history = make().tune()
        assert History.model_validate_json(history.model_dump_json()) == history


class TestDivergence:
    def test_a_loss_that_is_not_a_number_stops_with_the_last_good_state_kept(
        self, make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bench, plain = make(), make()
        plain.tune(epochs=2, backbone_lr=1e-3, head_lr=1e-2)
        steps, cross_entropy = 0, F.cross_entropy

        def spoilt(*given: Any, **named: Any) -> torch.Tensor:
            nonlocal steps
            steps += "label_smoothing" in named
            return cross_entropy(*given, **named) * (float("nan") if steps > 3 else 1.0)

        monkeypatch.setattr("edgetl.finetune.loop.F.cross_entropy", spoilt)
        with pytest.raises(
            TrainingError,
            match=r"^training diverged: the loss became nan in epoch 2\. The best state so far is that of epoch 1, "
            r"with .* % of the held-out photos right\. .* lower --lr, or fewer epochs$",
        ):
            bench.tune(epochs=2, backbone_lr=1e-3, head_lr=1e-2)
        logits = classifier_logits(bench.classifier, bench.held, bench.how, bench.workbench())
        assert np.isfinite(logits).all()

    def test_a_last_step_that_diverges_is_seen_on_the_held_out_photos(
        self, make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cross_entropy, judged = F.cross_entropy, 0

        def spoilt(*given: Any, **named: Any) -> torch.Tensor:
            nonlocal judged
            judged += "label_smoothing" not in named
            return cross_entropy(*given, **named) * (float("inf") if judged > 1 else 1.0)

        monkeypatch.setattr("edgetl.finetune.loop.F.cross_entropy", spoilt)
        bench = make()
        before = state_of(bench.classifier)
        with pytest.raises(TrainingError, match=r"the held-out loss became inf in epoch 1\. .* that of epoch 0, "):
            bench.tune()
        assert same(state_of(bench.classifier), before)


class TestSettings:
    @pytest.mark.parametrize(
        ("name", "value"),
        [("epochs", -1), ("batch", 1), ("backbone_lr", 0.0), ("backbone_lr", float("nan")), ("patience", 0)],
    )
    def test_a_value_out_of_range_is_refused(self, name: str, value: float) -> None:
        with pytest.raises(ValidationError, match=name):
            TuneSettings(**{"epochs": 1, name: value})


class TestRate:
    def test_it_rises_to_the_full_rate_and_falls_to_zero(self) -> None:
        rates = [_rate(done / 100, 0.1) for done in range(101)]
        assert rates[:11] == sorted(rates[:11])
        assert max(rates) == rates[10] == 1.0
        assert rates[10:] == sorted(rates[10:], reverse=True)
        assert rates[-1] == pytest.approx(0.0)

    def test_it_begins_above_zero(self) -> None:
        assert _rate(0.0, 0.1) == 0.01

    def test_without_warm_up_it_begins_in_full(self) -> None:
        assert _rate(0.0, 0.0) == 1.0


def test_logits_come_in_eval_mode_and_in_order(make: Callable[..., Bench]) -> None:
    bench = make("mobilenet_v3_small", fitted=True)
    bench.classifier.train()
    items = bench.dataset.items
    logits = classifier_logits(bench.classifier, items, bench.how, bench.workbench())
    backward = classifier_logits(bench.classifier, items[::-1], bench.how, bench.workbench())
    assert (logits.shape, logits.dtype) == ((36, 3), np.float32)
    assert not bench.classifier.training
    np.testing.assert_allclose(backward[::-1], logits, rtol=1e-3, atol=1e-3)
