"""Streams a dataset's photos as the network reads them, decoded ahead in threads."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np

from edgetl.data.dataset import Dataset, Item
from edgetl.records import ImageArray, Preprocess
from edgetl.runtime.preprocess import open_photo, preprocess

__all__ = ["image_batches", "load_image"]

# Batches decoded ahead of the one in use; bounds the memory held.
AHEAD = 2


def load_image(path: Path, how: Preprocess) -> ImageArray:
    """Return one photo as the network reads it: uint8 RGB of shape (height, width, 3).

    Raises:
        DataError: the photo cannot be read.
    """
    return preprocess(open_photo(path), how)


def image_batches(
    dataset: Dataset, items: Sequence[Item], how: Preprocess, batch: int, mirror: bool = False
) -> Iterator[ImageArray]:
    """Yield the items' images in order: uint8 RGB of shape (up to batch, height, width, 3).

    Args:
        dataset: where the items lie.
        items: which photos, in which order.
        how: the preprocessing.
        batch: images a batch.
        mirror: turn each image left to right.

    Raises:
        DataError: a photo cannot be read.
    """
    turn = slice(None, None, -1) if mirror else slice(None)

    def load(item: Item) -> ImageArray:
        return load_image(dataset.path_of(item), how)[:, turn]

    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        rest = iter(items)
        waiting: deque[Future[ImageArray]] = deque(
            pool.submit(load, item) for item in islice(rest, batch * (AHEAD + 1))
        )
        try:
            while waiting:
                ready = [waiting.popleft().result() for _ in range(min(batch, len(waiting)))]
                waiting.extend(pool.submit(load, item) for item in islice(rest, batch))
                yield np.stack(ready)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
