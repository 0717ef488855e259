"""Tests of edgetl/finetune/augment.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from edgetl.data import Dataset, read_dataset
from edgetl.finetune.augment import AugmentedPhotos, EpochOrder
from edgetl.records import Preprocess

HOW = Preprocess(side=32, fit="squash", mean=(124, 116, 104), std=(58.0, 57.0, 57.0))


@pytest.fixture
def make(dataset: Dataset) -> Callable[..., AugmentedPhotos]:
    def make(seed: int = 0, mirror: bool = True) -> AugmentedPhotos:
        return AugmentedPhotos(dataset, dataset.items[:10], HOW, mirror, seed)

    return make


@pytest.fixture
def red_left(tmp_path: Path) -> Dataset:
    """Return photos that are red on the left and blue on the right."""
    photo = Image.new("RGB", (48, 48), "blue")
    photo.paste((255, 0, 0), (0, 0, 24, 48))
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for index in range(2):
            photo.save(tmp_path / label / f"{index}.png")
    return read_dataset(str(tmp_path), seed=0)


def loaded(photos: AugmentedPhotos, workers: int, epoch: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    order = EpochOrder(len(photos), 4, seed=0)
    order.epoch = epoch
    pixels, labels = zip(*DataLoader(photos, batch_sampler=order, num_workers=workers), strict=True)
    return torch.cat(pixels), torch.cat(labels)


class TestAugmentedPhotos:
    def test_a_photo_is_bytes_of_the_networks_size_with_its_class(
        self, make: Callable[..., AugmentedPhotos], dataset: Dataset
    ) -> None:
        pixels, label = make()[1, 3]
        assert (pixels.dtype, tuple(pixels.shape)) == (torch.uint8, (3, 32, 32))
        assert label == dataset.items[3].label

    def test_the_same_seed_epoch_and_number_give_the_same(self, make: Callable[..., AugmentedPhotos]) -> None:
        assert torch.equal(make()[2, 3][0], make()[2, 3][0])

    @pytest.mark.parametrize(("seed", "epoch"), [(0, 2), (1, 1)])
    def test_another_epoch_or_seed_gives_another(
        self, seed: int, epoch: int, make: Callable[..., AugmentedPhotos]
    ) -> None:
        assert not torch.equal(make()[1, 3][0], make(seed)[epoch, 3][0])

    def test_the_number_of_workers_changes_nothing(self, make: Callable[..., AugmentedPhotos]) -> None:
        alone, shared = loaded(make(), workers=0), loaded(make(), workers=2)
        assert torch.equal(alone[0], shared[0])
        assert torch.equal(alone[1], shared[1])

    def test_the_order_of_loading_changes_nothing(self, make: Callable[..., AugmentedPhotos]) -> None:
        first, second = make(), make()
        forward = [first[1, number][0] for number in range(10)]
        backward = [second[1, number][0] for number in reversed(range(10))][::-1]
        assert all(torch.equal(left, right) for left, right in zip(forward, backward, strict=True))

    def test_the_global_generator_is_left_alone(self, make: Callable[..., AugmentedPhotos]) -> None:
        before = torch.random.get_rng_state()
        make()[1, 3]
        assert torch.equal(torch.random.get_rng_state(), before)

    @pytest.mark.parametrize(("mirror", "sides"), [(False, {"left"}), (True, {"left", "right"})])
    def test_photos_are_mirrored_only_where_that_is_allowed(
        self, mirror: bool, sides: set[str], red_left: Dataset
    ) -> None:
        photos = AugmentedPhotos(red_left, red_left.items, HOW, mirror, seed=0)
        found = set()
        for epoch in range(20):
            red = photos[epoch, 0][0][0].float()
            found.add("left" if red[:, :4].mean() > red[:, -4:].mean() else "right")
        assert found == sides


class TestEpochOrder:
    @pytest.mark.parametrize(("count", "batch"), [(12, 4), (14, 4), (3, 8), (2, 2)])
    def test_every_photo_comes_once_an_epoch(self, count: int, batch: int) -> None:
        order = EpochOrder(count, batch, seed=0)
        order.epoch = 3
        batches = list(order)
        assert Counter(pair for rows in batches for pair in rows) == {(3, number): 1 for number in range(count)}
        assert len(batches) == len(order)

    def test_a_last_batch_of_one_is_left_out(self) -> None:
        batches = list(EpochOrder(13, 4, seed=0))
        assert [len(rows) for rows in batches] == [4, 4, 4]

    def test_a_single_photo_makes_no_batch(self) -> None:
        assert list(EpochOrder(1, 4, seed=0)) == []

    def test_epochs_and_seeds_shuffle_anew(self) -> None:
        def order_of(seed: int, epoch: int) -> list[int]:
            order = EpochOrder(50, 50, seed)
            order.epoch = epoch
            return [number for _, number in next(iter(order))]

        assert order_of(0, 1) == order_of(0, 1)
        assert order_of(0, 1) != order_of(0, 2)
        assert order_of(0, 1) != order_of(1, 1)
