"""Every network that can be asked for: its head is replaced, its features are taken, it learns, it is exported and
proved, and INT8 is tried. All with random weights, at the smallest side that it reads."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from edgetl.backbones import Backbone, backbone_names, blocks_of, choose_weights, freeze, load_backbone, unfreeze
from edgetl.errors import BackboneError, EdgetlError
from edgetl.export import EXPORTERS, MAX_RELATIVE_ERROR, CoreGraph, CoreSession, export_graph, measure_parity
from edgetl.finetune import Classifier, as_input, new_head
from edgetl.quantize import calibrate, quantize_for
from edgetl.recipe import load_recipe
from edgetl.records import FloatArray, ImageArray
from edgetl.runtime import paint_border
from tests.backbones.families import FAMILIES

LOG = logging.getLogger(__name__)
CLASSES = 3
CPU = torch.device("cpu")
SIDES = (32, 64, 75, 128, 224, 384, 518)
# Networks of more parameters take minutes each to export, and their layers are those of their smaller kin.
MOST_PARAMETERS = 150_000_000


def load(name: str, sides: tuple[int, ...] = SIDES) -> Backbone:
    """Return a network with random weights, for photos as small as it reads."""
    side, *larger = sides
    try:
        return load_backbone(name, choose_weights(name, "random", 0), side)
    except BackboneError:
        if not larger:
            raise
        return load(name, tuple(larger))


def classifier_on(backbone: Backbone) -> Classifier:
    torch.manual_seed(0)
    return Classifier(backbone.module, new_head("linear", backbone.features, CLASSES))


def photos_for(backbone: Backbone, count: int = 4) -> ImageArray:
    side = backbone.preprocess.side
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3)).astype(np.uint8)


@pytest.mark.parametrize("name", ["edgetl/nano", *(f"torchvision/{name}" for name in FAMILIES)])
def test_one_of_each_family_gives_features_and_learns_block_by_block(name: str) -> None:
    backbone = load(name, (FAMILIES.get(name.removeprefix("torchvision/"), 32),))
    classifier = classifier_on(backbone)
    photos = as_input(photos_for(backbone), backbone.preprocess, CPU)
    labels = torch.tensor([0, 1, 2, 0])
    with torch.inference_mode():
        assert freeze(classifier.backbone)(photos).shape == (4, backbone.features)
    unfreeze(classifier)
    F.cross_entropy(classifier(photos), labels).backward()
    for block in blocks_of(classifier.backbone):
        gradients = [parameter.grad for parameter in block.parameters]
        assert any(each is not None and bool(each.abs().sum() > 0) for each in gradients), block.name
        assert all(each is None or bool(each.isfinite().all()) for each in gradients), block.name


class Walked:
    """What became of one network: a cell of the table a step."""

    def __init__(self, name: str) -> None:
        self.cells = {"network": name.removeprefix("torchvision/")}

    def __str__(self) -> str:
        return f"| {' | '.join(self.cells.values())} |"


def walk(name: str) -> Walked:
    """Return what became of a network on its way to INT8; what cannot be exported says why."""
    walked = Walked(name)
    backbone = load(name)
    classifier = freeze(classifier_on(backbone))
    size = sum(parameter.numel() for parameter in classifier.parameters())
    walked.cells |= {"side": str(backbone.preprocess.side), "millions": f"{size / 1e6:.1f}"}
    walked.cells |= {"features": str(backbone.features), "blocks": str(len(blocks_of(backbone.module)))}
    if size > MOST_PARAMETERS:
        walked.cells |= {"exported by": "not tried: too large", "parity": "", "INT8": ""}
        return walked
    images = photos_for(backbone)
    with torch.inference_mode():
        wanted = classifier(as_input(images, backbone.preprocess, CPU)).numpy()
    why = []
    for exporter in EXPORTERS:
        try:
            graph = export_graph(classifier, backbone.preprocess, exporter)
            error = measure_parity(wanted, answers_of(graph, images)).max_relative_error
        except EdgetlError as refused:
            why.append(f"{exporter}: {refused}")
            continue
        if error <= MAX_RELATIVE_ERROR:
            walked.cells |= {"exported by": exporter, "parity": f"{error:.0e}", "INT8": int8_of(graph, images, wanted)}
            return walked
        why.append(f"{exporter}: relative error {error:.0e}")
    walked.cells |= {"exported by": "none", "parity": "; ".join(why), "INT8": ""}
    return walked


def answers_of(graph: CoreGraph, images: ImageArray, content: bytes | None = None) -> FloatArray:
    bordered = np.stack([paint_border(image, graph.preprocess) for image in images])
    return CoreSession(content or graph.model.SerializeToString()).run(bordered)


def int8_of(graph: CoreGraph, images: ImageArray, wanted: FloatArray) -> str:
    """Return the signal that INT8 leaves, in dB, or why there is none."""
    recipe = load_recipe("minmax")
    bordered = np.stack([paint_border(image, graph.preprocess) for image in images])
    try:
        statistics = calibrate(graph.model, iter([bordered]), recipe)
        made = quantize_for("onnxruntime", graph.model, statistics, iter([bordered]), recipe, ("int8",))["int8"]
        found = answers_of(graph, images, made.SerializeToString())
    except EdgetlError as refused:
        return str(refused)
    noise = float(np.square(found - wanted).sum())
    return f"{10 * np.log10(float(np.square(wanted).sum()) / max(noise, 1e-20)):.0f} dB"


@pytest.fixture(scope="module")
def table() -> Iterator[list[Walked]]:
    """Return the rows of the table, which is logged in the end."""
    rows: list[Walked] = []
    yield rows
    if rows:
        head = list(rows[0].cells)
        lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *map(str, rows)]
        LOG.info("every network:\n%s", "\n".join(lines))


@pytest.mark.slow
@pytest.mark.parametrize("name", backbone_names())
def test_every_network_is_exported_and_quantized_or_says_why(name: str, table: list[Walked]) -> None:
    table.append(walk(name))
    cells = table[-1].cells
    assert cells["exported by"] in {*EXPORTERS, "not tried: too large"}, cells
