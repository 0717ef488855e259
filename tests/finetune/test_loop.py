"""Tests of edgetl/finetune/loop.py."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn

from edgetl.backbones import Backbone, blocks_of
from edgetl.data import Dataset, hold_out, labels_of
from edgetl.errors import SettingsError, TrainingError
from edgetl.finetune import (
    Classifier,
    Ranks,
    TuneSettings,
    Workbench,
    classifier_logits,
    find_rate,
    fit_head,
    new_head,
    tune,
)
from edgetl.finetune.augment import EpochOrder
from edgetl.finetune.features import extract_features
from edgetl.finetune.run import _evened
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
            features = extract_features(backbone, self.rest, self.how, self.workbench())
            head = fit_head("linear", [features], labels_of(self.rest), 3, seed=0).module
        else:
            head = new_head("linear", backbone.features, 3)
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
        self.classifier = Classifier(copy.deepcopy(backbone.module), head)

    def workbench(self, progress: Any = None) -> Workbench:
        return Workbench(dataset=self.dataset, device=CPU, progress=progress or Quiet())

    def tune(self, progress: Any = None, checkpoint: Path | None = None, **settings: Any) -> History:
        chosen = TuneSettings(**{"epochs": 1, "batch": 8, **settings})
        return tune(self.classifier, self.rest, self.held, self.how, chosen, self.workbench(progress), checkpoint)


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
        monkeypatch.setattr("edgetl.finetune.augment.FEW", 0)
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


class TestOptions:
    @pytest.mark.parametrize(
        "asked",
        [
            {"schedule": "one-cycle"}, {"augment": "trivial"}, {"augment": "rand"}, {"augment": "none"}, {"mixup": 0.2},
            {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0, "balance": "loss"}, {"balance": "sampler"}, {"ema": 0.5},
            {"clip": 1.0}, {"accumulate": 2}, {"amp": "bf16"}, {"amp": "fp16"}, {"label_smoothing": 0.0},
        ],
        ids=str,
    )  # fmt: skip
    def test_training_learns_and_a_seed_gives_the_same_weights(
        self, asked: dict[str, Any], make: Callable[..., Bench]
    ) -> None:
        first, second = make(), make()
        history = first.tune(epochs=3, backbone_lr=1e-3, head_lr=1e-2, **asked)
        second.tune(epochs=3, backbone_lr=1e-3, head_lr=1e-2, **asked)
        assert history.best > 0
        assert history.epochs[history.best].held_out_loss < history.epochs[0].held_out_loss
        assert same(state_of(first.classifier), state_of(second.classifier))

    def test_batches_that_make_a_step_give_what_one_large_batch_gives(self, make: Callable[..., Bench]) -> None:
        large, small = make(), make()
        large.tune(batch=8, augment="none", head_lr=1e-2)
        small.tune(batch=4, accumulate=2, augment="none", head_lr=1e-2)
        for one, other in zip(large.classifier.parameters(), small.classifier.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)

    def test_averaged_weights_answer_and_are_kept(self, make: Callable[..., Bench]) -> None:
        bench = make()
        history = bench.tune(epochs=2, ema=0.9, backbone_lr=1e-3, head_lr=1e-2)
        logits = classifier_logits(bench.classifier, bench.held, bench.how, bench.workbench())
        wanted = torch.from_numpy(labels_of(bench.held))
        assert F.cross_entropy(torch.from_numpy(logits), wanted).item() == history.epochs[history.best].held_out_loss

    def test_gradients_are_no_longer_than_asked(
        self, make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        norms: list[float] = []
        step = torch.optim.AdamW.step

        def watched(optimizer: torch.optim.AdamW, *given: Any) -> Any:
            gradients = [each.grad for group in optimizer.param_groups for each in group["params"]]
            norms.append(float(torch.stack([each.norm() for each in gradients if each is not None]).norm()))
            return step(optimizer, *given)

        monkeypatch.setattr(torch.optim.AdamW, "step", watched)
        make().tune(clip=1e-3)
        assert norms
        assert max(norms) <= 1.001e-3

    def test_a_rare_class_is_drawn_as_often_as_the_others(self) -> None:
        labels = np.repeat([0, 1], [90, 10])
        weights = _evened(labels, 2)
        order = EpochOrder(100, 10, seed=0, shares=weights[labels] / weights[labels].sum())
        drawn = labels[[number for batch in order for _, number in batch]]
        assert len(drawn) == 100
        assert 30 <= drawn.sum() <= 70

    def test_a_batch_that_does_not_fit_goes_through_in_parts(
        self, make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, lines: Any
    ) -> None:
        plain, tight = make(), make()
        plain.tune(augment="none", head_lr=1e-2)
        forward = Classifier.forward

        def small(classifier: Classifier, photos: torch.Tensor) -> torch.Tensor:
            if classifier.training and len(photos) > 2:
                raise torch.OutOfMemoryError("out of memory")
            return forward(classifier, photos)

        monkeypatch.setattr(Classifier, "forward", small)
        tight.tune(lines, augment="none", head_lr=1e-2)
        assert [line for line in lines.said if "memory" in line] == [
            "a batch of 8 does not fit into the GPU's memory: in 2 parts",
            "a batch of 8 does not fit into the GPU's memory: in 4 parts",
        ]
        for one, other in zip(plain.classifier.parameters(), tight.classifier.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)

    def test_where_no_photo_fits_it_stops_with_the_best_state(
        self, make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bench = make()
        before, forward = state_of(bench.classifier), Classifier.forward

        def none(classifier: Classifier, photos: torch.Tensor) -> torch.Tensor:
            if classifier.training:
                raise torch.OutOfMemoryError("out of memory")
            return forward(classifier, photos)

        monkeypatch.setattr(Classifier, "forward", none)
        with pytest.raises(TrainingError, match="not even one photo at a time fits into the GPU's memory"):
            bench.tune()
        assert same(state_of(bench.classifier), before)

    def test_a_batch_that_leaves_a_process_without_a_photo_is_refused(self, make: Callable[..., Bench]) -> None:
        bench = make()
        three = replace(bench.workbench(), ranks=Ranks(number=1, count=3))
        settings = TuneSettings(epochs=1, batch=2)
        with pytest.raises(
            SettingsError, match=r"^--batch 2 leaves some of 3 processes without a photo\. Say --batch 24"
        ):
            tune(bench.classifier, bench.rest, bench.held, bench.how, settings, three)


class TestFindRate:
    def test_it_lies_between_learning_nothing_and_blowing_up(self, make: Callable[..., Bench], lines: Any) -> None:
        bench = make()
        before = state_of(bench.classifier)
        settings = TuneSettings(epochs=1, batch=8, unfreeze="gradual")
        rate = find_rate(bench.classifier, bench.rest, bench.how, settings, bench.workbench(lines))
        assert 1e-6 <= rate <= 1e-2
        assert lines.said[-1].startswith(f"rate {rate:.1e}: ")
        assert same(state_of(bench.classifier), before)
        history = bench.tune(epochs=3, backbone_lr=rate, head_lr=5 * rate)
        assert history.epochs[history.best].held_out_loss < history.epochs[0].held_out_loss

    def test_a_loss_that_is_never_finite_gives_the_lowest_rate(
        self, make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cross_entropy = F.cross_entropy
        monkeypatch.setattr(
            "edgetl.finetune.run.F.cross_entropy", lambda *given, **named: cross_entropy(*given, **named) * float("nan")
        )
        bench = make()
        settings = TuneSettings(epochs=1, batch=8)
        assert find_rate(bench.classifier, bench.rest, bench.how, settings, bench.workbench()) == 1e-6


class StoppedError(Exception):
    """A run was stopped."""


class Stopping(Quiet):
    """Stops a run when an epoch begins."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def count(self, what: str, total: int) -> Any:
        if f"epoch {self.epoch} " in what:
            raise StoppedError
        return super().count(what, total)


class TestResume:
    @pytest.mark.parametrize("stopped", [2, 3, 4])
    @pytest.mark.parametrize(
        "asked", [{}, {"unfreeze": "gradual", "ema": 0.9}, {"mixup": 0.3, "amp": "fp16", "accumulate": 2}], ids=str
    )
    def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(
        self, stopped: int, asked: dict[str, Any], make: Callable[..., Bench], tmp_path: Path, lines: Any
    ) -> None:
        settings = {"epochs": 4, "backbone_lr": 1e-3, "head_lr": 1e-2, **asked}
        whole, parted = make("mobilenet_v3_small"), make("mobilenet_v3_small")
        history = whole.tune(**settings)
        with pytest.raises(StoppedError):
            parted.tune(Stopping(stopped), checkpoint=tmp_path / "kept", **settings)
        fresh = make("mobilenet_v3_small")
        gone_on = fresh.tune(lines, checkpoint=tmp_path / "kept", **settings)
        assert same(state_of(fresh.classifier), state_of(whole.classifier))
        assert gone_on.best == history.best
        without_times = [
            [each.model_copy(update={"seconds": 0.0}) for each in every.epochs] for every in (history, gone_on)
        ]
        assert without_times[0] == without_times[1]
        assert lines.said[0] == f"going on after epoch {stopped - 1}, where training was stopped"

    def test_what_is_done_is_not_done_again(self, make: Callable[..., Bench], tmp_path: Path) -> None:
        make().tune(epochs=2, checkpoint=tmp_path / "kept")
        again = make()
        history = again.tune(Stopping(1), epochs=2, checkpoint=tmp_path / "kept")
        assert len(history.epochs) == 3

    def test_a_checkpoint_of_other_settings_is_refused(self, make: Callable[..., Bench], tmp_path: Path) -> None:
        make().tune(epochs=1, checkpoint=tmp_path / "kept")
        with pytest.raises(
            SettingsError, match=r"kept: is a checkpoint of other settings \(epochs, ema\)\. .* or remove it$"
        ):
            make().tune(epochs=2, ema=0.9, checkpoint=tmp_path / "kept")

    @pytest.mark.parametrize("name", ["checkpoint.json", "now.safetensors", "best.safetensors", "rest.pt"])
    @pytest.mark.parametrize("content", [None, b"", b"damaged"])
    def test_a_damaged_one_is_begun_anew(
        self, name: str, content: bytes | None, make: Callable[..., Bench], tmp_path: Path, lines: Any
    ) -> None:
        make().tune(epochs=1, checkpoint=tmp_path / "kept")
        if content is None:
            (tmp_path / "kept" / name).unlink()
        else:
            (tmp_path / "kept" / name).write_bytes(content)
        make().tune(lines, epochs=1, checkpoint=tmp_path / "kept")
        assert lines.said[0].startswith("before: held out ")


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

        monkeypatch.setattr("edgetl.finetune.run.F.cross_entropy", spoilt)
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

        monkeypatch.setattr("edgetl.finetune.run.F.cross_entropy", spoilt)
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


def test_logits_come_in_eval_mode_and_in_order(make: Callable[..., Bench]) -> None:
    bench = make("mobilenet_v3_small", fitted=True)
    bench.classifier.train()
    items = bench.dataset.items
    logits = classifier_logits(bench.classifier, items, bench.how, bench.workbench())
    backward = classifier_logits(bench.classifier, items[::-1], bench.how, bench.workbench())
    assert (logits.shape, logits.dtype) == ((36, 3), np.float32)
    assert not bench.classifier.training
    np.testing.assert_allclose(backward[::-1], logits, rtol=1e-3, atol=1e-3)
