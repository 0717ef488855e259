"""Tests of edgetl/data/loader.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgetl.data import image_batches, load_image, read_dataset
from edgetl.records import Preprocess, Quiet

PLAIN = Preprocess(side=24, fit="squash", crop_share=1.0, mean=(124, 116, 104), std=(58.0, 57.0, 57.0))


@pytest.mark.parametrize("batch", [1, 5, 100])
def test_batches_are_the_photos_in_order(batch: int, colours: Path) -> None:
    dataset = read_dataset(str(colours), 0, Quiet())
    items = dataset.items[:12]
    batches = list(image_batches(dataset, items, PLAIN, batch))
    assert [len(each) for each in batches] == [min(batch, 12 - start) for start in range(0, 12, batch)]
    alone = np.stack([load_image(dataset.path_of(item), PLAIN) for item in items])
    np.testing.assert_array_equal(np.concatenate(batches), alone)


def test_mirrored_batches_are_turned_left_to_right(colours: Path) -> None:
    dataset = read_dataset(str(colours), 0, Quiet())
    (plain,), (turned,) = (
        list(image_batches(dataset, dataset.items[:3], PLAIN, 3, mirror=mirror)) for mirror in (False, True)
    )
    np.testing.assert_array_equal(turned, plain[:, :, ::-1])
    assert (turned != plain).any()
