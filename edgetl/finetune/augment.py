"""Training photos as the network has not seen them: cropped, mirrored, recoloured, the same for the same seed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset
from torchvision.transforms import v2

from edgetl.data import Dataset, Item, load_image
from edgetl.finetune.ranks import Ranks
from edgetl.options import Augment
from edgetl.records import Preprocess

__all__ = ["AugmentedPhotos", "EpochOrder", "load_photos"]

# The square that crops are taken from is larger than the network's, so that they stay sharp.
ROOM = 1.25
# Photos below which starting processes takes longer than loading.
FEW = 256


class AugmentedPhotos(TorchDataset[tuple[torch.Tensor, int]]):
    """Photo number i of epoch e as uint8 of shape (3, side, side), and its class; indexed by (e, i).

    `light` crops, mirrors and recolours; `trivial` crops, mirrors and changes in one way more (TrivialAugment, Mueller
    and Hutter 2021), `rand` in two (RandAugment, Cubuk et al. 2020); `none` leaves photos as the network reads them.
    """

    def __init__(
        self,
        dataset: Dataset,
        items: Sequence[Item],
        how: Preprocess,
        mirror: bool,
        seed: int,
        augment: Augment = "light",
    ) -> None:
        self._paths = [dataset.path_of(item) for item in items]
        self._labels = [item.label for item in items]
        self._how = how if augment == "none" else how.model_copy(update={"side": round(how.side * ROOM)})
        self._seed = seed
        fill = {"fill": how.mean}
        more: dict[Augment, v2.Transform] = {
            "light": v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2),
            "trivial": v2.TrivialAugmentWide(**fill),
            "rand": v2.RandAugment(**fill),
        }
        changes = [
            v2.RandomResizedCrop(how.side, scale=(0.5, 1.0), ratio=(0.8, 1.25), antialias=True),
            v2.RandomHorizontalFlip(0.5 if mirror else 0.0),
        ]
        self._change = v2.Compose([*([*changes, more[augment]] if augment != "none" else []), v2.PILToTensor()])

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: tuple[int, int]) -> tuple[torch.Tensor, int]:
        epoch, number = index
        photo = Image.fromarray(load_image(self._paths[number], self._how))
        # torchvision draws from the global generator: seed it for this one photo, whoever loads it, and put it back.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.SeedSequence([self._seed, epoch, number]).generate_state(1)[0]))
            return self._change(photo), self._labels[number]


def load_photos(
    photos: AugmentedPhotos, batches: Iterable[list[tuple[int, int]]], device: torch.device, seed: int
) -> DataLoader[tuple[torch.Tensor, int]]:
    """Return what loads photos batch by batch, in processes of their own where there are many.

    Args:
        photos: to load.
        batches: the (epoch, number) of each, batch by batch.
        device: where they go.
        seed: of what a process draws by itself.
    """
    workers = 0 if len(photos) < FEW else min(8, os.cpu_count() or 1)
    return DataLoader(
        photos,
        batch_sampler=batches,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
        # A fresh interpreter a process would need every caller's script to guard its main part.
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        # Else it draws from the global generator, more or less often by the number of processes.
        generator=torch.Generator().manual_seed(seed),
    )


class EpochOrder(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, number), shuffled anew each epoch; a last batch of one photo is left out, for BatchNorm.

    With `shares`, which sum up to 1, an epoch has as many photos but draws each again and again by its share. Of
    several processes each has its part of each batch; a last batch that not all have a part of is left out too.
    """

    def __init__(
        self,
        count: int,
        batch: int,
        seed: int,
        shares: npt.NDArray[np.float64] | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self._count, self._batch, self._seed, self._shares = count, batch, seed, shares
        self._ranks = ranks or Ranks()
        self.epoch = 0

    def __len__(self) -> int:
        full, rest = divmod(self._count, self._batch)
        return full + (rest >= max(2, self._ranks.count))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        draw = np.random.default_rng([self._seed, self.epoch])
        evenly = self._shares is None
        order = draw.permutation(self._count) if evenly else draw.choice(self._count, self._count, p=self._shares)
        for start in range(0, len(self) * self._batch, self._batch):
            yield self._ranks.share([(self.epoch, int(number)) for number in order[start : start + self._batch]])
