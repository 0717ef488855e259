"""Tests of edgetl/finetune/unfreeze.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from edgetl.backbones import Backbone, blocks_of, freeze
from edgetl.errors import SettingsError
from edgetl.finetune import Classifier, new_head
from edgetl.finetune.unfreeze import Unfreezing, trained_blocks, trained_groups


@pytest.fixture
def classifier(load: Callable[..., Backbone]) -> Classifier:
    backbone = load("mobilenet_v3_small")
    head = new_head("linear", backbone.features, 3)
    nn.init.zeros_(head.weight)
    return Classifier(freeze(backbone.module), head)


def rates_of(classifier: Classifier, how: str = "all", layer_decay: float = 1.0) -> dict[int, float]:
    blocks = trained_blocks(classifier.backbone, how)
    groups = trained_groups(classifier, blocks, 1e-4, 1e-3, 0.02, layer_decay)
    return {id(parameter): group["lr"] for group in groups for parameter in group["params"]}


def learning(classifier: Classifier) -> list[str]:
    """Return the blocks of which any parameter learns; all of it must, then."""
    found = []
    for block in blocks_of(classifier.backbone):
        kinds = {parameter.requires_grad for parameter in block.parameters}
        assert len(kinds) == 1
        found += [block.name] * kinds.pop()
    return found


class TestGroups:
    def test_every_parameter_is_in_one_group(self, classifier: Classifier) -> None:
        groups = trained_groups(classifier, trained_blocks(classifier.backbone, "all"), 1e-4, 1e-3, 0.02)
        found = [id(parameter) for group in groups for parameter in group["params"]]
        assert sorted(found) == sorted(id(parameter) for parameter in classifier.parameters())

    def test_the_head_learns_faster_than_the_backbone(self, classifier: Classifier) -> None:
        rates = rates_of(classifier)
        assert {rates[id(parameter)] for parameter in classifier.backbone.parameters()} == {1e-4}
        assert {rates[id(parameter)] for parameter in classifier.head.parameters()} == {1e-3}

    def test_a_block_learns_slower_than_the_one_behind_it(self, classifier: Classifier) -> None:
        rates, blocks = rates_of(classifier, layer_decay=0.5), blocks_of(classifier.backbone)
        found = [{rates[id(parameter)] for parameter in block.parameters} for block in blocks]
        assert found == [{1e-4 * 0.5**depth} for depth in reversed(range(len(blocks)))]
        assert rates[id(classifier.head.weight)] == 1e-3

    def test_what_is_never_trained_is_in_none(self, classifier: Classifier) -> None:
        wanted = [*(each for block in blocks_of(classifier.backbone)[-2:] for each in block.parameters)]
        wanted += list(classifier.head.parameters())
        assert sorted(rates_of(classifier, "last:2")) == sorted(map(id, wanted))

    def test_weights_decay_but_biases_and_normalisation_do_not(self, classifier: Classifier) -> None:
        for group in trained_groups(classifier, trained_blocks(classifier.backbone, "all"), 1e-4, 1e-3, 0.02):
            kinds = {parameter.ndim > 1 for parameter in group["params"]}
            assert len(kinds) == 1
            assert group["weight_decay"] == (0.02 if kinds == {True} else 0.0)


class TestUnfreezing:
    def test_all_learns_from_the_first_epoch_on(self, classifier: Classifier) -> None:
        Unfreezing(classifier, "all", epochs=7).begin(1)
        assert all(parameter.requires_grad for parameter in classifier.parameters())
        assert classifier.training

    def test_gradual_comes_to_the_first_block_in_the_middle(self, classifier: Classifier) -> None:
        unfreezing = Unfreezing(classifier, "gradual", epochs=7)
        names = [block.name for block in blocks_of(classifier.backbone)]
        seen = []
        for epoch in range(1, 8):
            unfreezing.begin(epoch)
            seen.append(learning(classifier))
            assert classifier.head.weight.requires_grad
        assert all(each == names[-len(each) :] for each in seen)
        counts = [len(each) for each in seen]
        assert counts == sorted(counts)
        assert counts[0] < counts[1] < counts[2] < counts[3] == len(names) == counts[6]

    @pytest.mark.parametrize("epochs", [1, 2])
    def test_gradual_comes_to_all_however_few_epochs_there_are(self, classifier: Classifier, epochs: int) -> None:
        unfreezing = Unfreezing(classifier, "gradual", epochs)
        unfreezing.begin(epochs)
        assert len(learning(classifier)) == len(blocks_of(classifier.backbone))

    def test_what_is_frozen_stays_byte_identical_in_training(self, classifier: Classifier) -> None:
        unfreezing = Unfreezing(classifier, "last:2", epochs=1)
        unfreezing.begin(1)
        *frozen, _, last = blocks_of(classifier.backbone)
        before = {name: value.clone() for name, value in classifier.backbone.state_dict().items()}
        rates = trained_groups(classifier, unfreezing.blocks, 0.1, 0.1, 0.02)
        optimizer = torch.optim.AdamW(rates)
        nn.init.normal_(classifier.head.weight)
        photos = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        nn.functional.cross_entropy(classifier(photos), torch.tensor([0, 1, 2, 0])).backward()
        optimizer.step()
        after = classifier.backbone.state_dict()
        names = tuple(f"{block.name}." for block in frozen)
        assert all(torch.equal(before[name], after[name]) for name in before if name.startswith(names))
        assert any(not torch.equal(before[name], after[name]) for name in before if name.startswith(f"{last.name}."))

    def test_dropout_outside_of_blocks_is_on(self, classifier: Classifier) -> None:
        Unfreezing(classifier, "last:1", epochs=1).begin(1)
        dropouts = [module for module in classifier.modules() if isinstance(module, nn.Dropout)]
        assert dropouts
        assert all(each.training for each in dropouts)

    def test_more_blocks_than_there_are_is_an_error(self, classifier: Classifier) -> None:
        with pytest.raises(SettingsError, match=r"--unfreeze last:99: the network has 1\d blocks, from features.0 to "):
            Unfreezing(classifier, "last:99", epochs=1)
