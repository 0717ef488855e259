"""Reads folders of photos into a Dataset, and finds bad, duplicate and leaking images."""

from __future__ import annotations

from edgetl.data.check import BadImage, Check, Conflict, Duplicate, Leak, check_dataset, usable_photos
from edgetl.data.dataset import SPLITS, Dataset, Item, Split, balanced, hold_out, labels_of
from edgetl.data.loader import image_batches, load_image
from edgetl.data.readers import READERS, Reader, read_dataset
from edgetl.data.rows import write_rows

__all__ = [
    "READERS",
    "SPLITS",
    "BadImage",
    "Check",
    "Conflict",
    "Dataset",
    "Duplicate",
    "Item",
    "Leak",
    "Reader",
    "Split",
    "balanced",
    "check_dataset",
    "hold_out",
    "image_batches",
    "labels_of",
    "load_image",
    "read_dataset",
    "usable_photos",
    "write_rows",
]
