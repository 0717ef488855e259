"""Tests of edgetl/finetune/views.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from edgetl.backbones import Backbone
from edgetl.data import Dataset, Item, read_dataset
from edgetl.finetune import Workbench, choose_view
from edgetl.records import Fit, Quiet

Load = Callable[..., Backbone]


def write(root: Path, draw_photo: Callable[[str, np.random.Generator], Image.Image], *labels: str) -> Dataset:
    """Return 15 photos a class, drawn with a random generator each."""
    for label in labels:
        (root / label).mkdir(parents=True)
        for index in range(15):
            draw_photo(label, np.random.default_rng([index, len(label)])).save(root / label / f"{index:02d}.png")
    return read_dataset(str(root), seed=0)


def noise(width: int, height: int, draw: np.random.Generator) -> Image.Image:
    return Image.fromarray(draw.integers(100, 156, (height, width, 3), dtype=np.uint8))


def coloured_ends(label: str, draw: np.random.Generator) -> Image.Image:
    """Return a wide photo whose colour is seen at the left and right end only."""
    photo = noise(96, 32, draw)
    for left in (0, 72):
        photo.paste({"red": (220, 20, 20), "blue": (20, 20, 220)}[label], (left, 0, left + 24, 32))
    return photo


def arrow(label: str, draw: np.random.Generator) -> Image.Image:
    """Return a triangle that points to the left or to the right."""
    photo = noise(32, 32, draw)
    tip, back = (4, 27) if label == "left" else (27, 4)
    tip, back = (x + int(draw.integers(-2, 3)) for x in (tip, back))
    ImageDraw.Draw(photo).polygon([(tip, 16), (back, 3), (back, 28)], fill=(250, 250, 250))
    return photo


def choose(backbone: Backbone, dataset: Dataset, items: tuple[Item, ...] | None = None, fit: Fit | None = None) -> Any:
    photos = dataset.of("train") if items is None else items
    return choose_view(
        backbone, photos, fit, 0, Workbench(dataset=dataset, device=torch.device("cpu"), progress=Quiet())
    )


def test_a_label_at_the_ends_of_wide_photos_is_not_cropped_away(load: Load, tmp_path: Path) -> None:
    choice = choose(load(), write(tmp_path, coloured_ends, "red", "blue"))
    assert choice.fit == "squash"
    assert choice.fit_accuracy["squash"] > 0.9
    assert choice.fit_accuracy["crop"] < 0.75


def test_of_equally_good_fits_the_one_the_backbone_knows_is_kept(load: Load, dataset: Dataset) -> None:
    choice = choose(load(), dataset)
    assert set(choice.fit_accuracy.values()) == {1.0}
    assert choice.fit == "crop"


def test_photos_whose_label_a_mirror_changes_are_not_mirrored(load: Load, tmp_path: Path) -> None:
    choice = choose(load(), write(tmp_path, arrow, "left", "right"), fit="squash")
    assert choice.fit_accuracy["squash"] > 0.9
    assert choice.mirrored_accuracy < 0.5
    assert not choice.mirror


def test_photos_that_a_mirror_leaves_what_they_are_are_mirrored(load: Load, dataset: Dataset) -> None:
    choice = choose(load(), dataset)
    assert choice.mirror
    assert choice.mirrored_accuracy == 1.0


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
def test_what_the_user_asks_for_is_taken(fit: Fit, load: Load, tmp_path: Path) -> None:
    choice = choose(load(), write(tmp_path, coloured_ends, "red", "blue"), fit=fit)
    assert choice.fit == fit
    assert list(choice.fit_accuracy) == [fit]


def test_a_class_of_one_photo_is_left_out_of_the_probe(load: Load, dataset: Dataset) -> None:
    lone = [item for item in dataset.of("train") if item.label == 0][:1]
    others = [item for item in dataset.of("train") if item.label > 0]
    choice = choose(load(), dataset, (*lone, *others))
    assert set(choice.fit_accuracy.values()) == {1.0}


def test_too_few_photos_to_probe_leave_the_backbones_own_view_and_say_so(
    load: Load, dataset: Dataset, lines: Any
) -> None:
    lone = tuple(next(item for item in dataset.of("train") if item.label == label) for label in range(3))
    bench = Workbench(dataset=dataset, device=torch.device("cpu"), progress=lines)
    choice = choose_view(load(), lone, None, 0, bench)
    assert (choice.fit, choice.mirror, choice.fit_accuracy) == ("crop", False, {})
    assert lines.said == ["too few training photos to choose how they are seen: crop, not mirrored"]


def test_of_many_photos_a_sample_is_probed(
    load: Load, dataset: Dataset, lines: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgetl.finetune.views.SAMPLE", 12)
    choose_view(
        load(), dataset.of("train"), None, 0, Workbench(dataset=dataset, device=torch.device("cpu"), progress=lines)
    )
    assert {total for _, total in lines.counted} == {12}
    assert [what for what, _ in lines.counted] == [
        "frozen pass, crop", "frozen pass, squash", "frozen pass, pad", "frozen pass, crop, mirrored"
    ]  # fmt: skip


def test_choosing_twice_gives_the_same(load: Load, dataset: Dataset) -> None:
    assert choose(load(), dataset) == choose(load(), dataset)
