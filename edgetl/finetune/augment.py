"""Training photos as the network has not seen them: cropped, mirrored, recoloured, the same for the same seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import Sampler
from torchvision.transforms import v2

from edgetl.data import Dataset, Item, load_image
from edgetl.records import Preprocess

__all__ = ["AugmentedPhotos", "EpochOrder"]

# The square that crops are taken from is larger than the network's, so that they stay sharp.
ROOM = 1.25


class AugmentedPhotos(TorchDataset[tuple[torch.Tensor, int]]):
    """Photo number i of epoch e as uint8 of shape (3, side, side), and its class; indexed by (e, i)."""

    def __init__(self, dataset: Dataset, items: Sequence[Item], how: Preprocess, mirror: bool, seed: int) -> None:
        self._paths = [dataset.path_of(item) for item in items]
        self._labels = [item.label for item in items]
        self._how = how.model_copy(update={"side": round(how.side * ROOM)})
        self._seed = seed
        self._change = v2.Compose(
            [
                v2.RandomResizedCrop(how.side, scale=(0.5, 1.0), ratio=(0.8, 1.25), antialias=True),
                v2.RandomHorizontalFlip(0.5 if mirror else 0.0),
                v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2),
                v2.PILToTensor(),
            ]
        )

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: tuple[int, int]) -> tuple[torch.Tensor, int]:
        epoch, number = index
        photo = Image.fromarray(load_image(self._paths[number], self._how))
        # torchvision draws from the global generator: seed it for this one photo, whoever loads it, and put it back.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.SeedSequence([self._seed, epoch, number]).generate_state(1)[0]))
            return self._change(photo), self._labels[number]


class EpochOrder(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, number), shuffled anew each epoch; a last batch of one photo is left out, for BatchNorm."""

    def __init__(self, count: int, batch: int, seed: int) -> None:
        self._count, self._batch, self._seed = count, batch, seed
        self.epoch = 0

    def __len__(self) -> int:
        full, rest = divmod(self._count, self._batch)
        return full + (rest > 1)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng([self._seed, self.epoch]).permutation(self._count)
        for start in range(0, len(self) * self._batch, self._batch):
            yield [(self.epoch, int(number)) for number in order[start : start + self._batch]]
