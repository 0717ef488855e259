"""The backbones by name, their weights, and how each wants its photos."""

from __future__ import annotations

import urllib.error
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torchvision
from torch import nn
from torchvision.models import VisionTransformer, get_model, get_model_weights, list_models
from torchvision.models.vision_transformer import interpolate_embeddings

from edgetl.backbones.weights_file import fit_weights, read_weights
from edgetl.bundle import Weights, sha256_of
from edgetl.errors import BackboneError, MissingError, first_line, nearest
from edgetl.records import Preprocess

__all__ = ["Backbone", "WeightsChoice", "backbone_names", "choose_weights", "load_backbone"]

NANO = "edgetl/nano"
NANO_WEIGHTS = Path(__file__).parent / "weights" / "nano.safetensors"
NANO_CLASSES = 10
# Trained on pixels in [-1, 1]; torchvision renormalises inside the network, here the preprocessing says it.
GOOGLE = {"googlenet", "inception_v3"}
# Networks that carry extra classifiers for training from scratch; nothing here uses them.
AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")
# What a vision transformer knows of each place in a photo: one more for every patch of a larger photo.
POSITIONS = "encoder.pos_embedding"


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightsChoice:
    """Which weights a backbone starts from; known before anything is downloaded or read."""

    kind: Literal["embedded", "download", "file", "random"]
    record: Weights
    path: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Backbone:
    """A network without its head.

    `module` turns normalised photos of shape (images, 3, side, side) into features of shape (images, features).
    `preprocess` says how it wants its photos, for the fit "crop"; mean is rounded to whole 255ths, so that the border
    that stands for zero padding on the device is exact.
    """

    name: str
    module: nn.Module
    features: int
    preprocess: Preprocess
    weights: Weights


def backbone_names() -> tuple[str, ...]:
    """Return every backbone's name: the embedded one, then torchvision's classification models."""
    return (NANO, *(f"torchvision/{name}" for name in list_models(module=torchvision.models)))


def choose_weights(name: str, weights: str | None, seed: int) -> WeightsChoice:
    """Return which weights a build starts from, without reading or downloading them.

    Args:
        name: a name from `backbone_names`.
        weights: a file (safetensors or `.pth`), "random", or None for the backbone's own pretrained weights.
        seed: what random weights are drawn from.

    Raises:
        BackboneError: unknown backbone, or no such file.
    """
    _check_name(name)
    if weights == "random":
        return WeightsChoice(
            kind="random", record=Weights(source="random", identity=f"seed {seed}", licence="none: not pretrained")
        )
    if weights is not None:
        path = Path(weights)
        if not path.is_file():
            raise BackboneError(f"--weights {weights}: no such file. Give a .safetensors or .pth file, or `random`")
        record = Weights(source=path.name, identity=f"sha256:{sha256_of(path)}", licence="as the file's owner says")
        return WeightsChoice(kind="file", record=record, path=path)
    if name == NANO:
        record = Weights(
            source="edgetl/nano, pretrained on CIFAR-10",
            identity=f"sha256:{sha256_of(NANO_WEIGHTS)}",
            licence="Apache-2.0",
        )
        return WeightsChoice(kind="embedded", record=record, path=NANO_WEIGHTS)
    default = get_model_weights(_short(name)).DEFAULT
    record = Weights(source=f"torchvision {default}", identity=default.url, licence="BSD-3-Clause; trained on ImageNet")
    return WeightsChoice(kind="download", record=record)


def load_backbone(name: str, choice: WeightsChoice, side: int | None = None, seed: int = 0) -> Backbone:
    """Return a backbone with its weights loaded and its head taken off.

    Args:
        name: a name from `backbone_names`.
        choice: from `choose_weights`.
        side: photo side in pixels; None for what the weights were trained for.
        seed: what random weights are drawn from.

    Raises:
        BackboneError: unknown name, weights of another network, weights that are not finite, or photos of a side that
            the network cannot read.
        MissingError: torchvision's weights are not here and cannot be downloaded.
    """
    _check_name(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _build(name, side)
    head_name, head = _find_head(network, name)
    if choice.kind != "random":
        state = _download(name) if choice.kind == "download" else read_weights(_path(choice))
        state = {key: tensor for key, tensor in state.items() if not key.startswith(AUXILIARY)}
        if isinstance(network, VisionTransformer) and POSITIONS in state:
            state = interpolate_embeddings(network.image_size, network.patch_size, state)
        fit_weights(network, state, optional=head_name, where=f"{name}: {choice.record.source}")
    parent, _, leaf = head_name.rpartition(".")
    setattr(network.get_submodule(parent), leaf, nn.Identity())
    features = head.in_features if isinstance(head, nn.Linear) else head.in_channels
    how = _preprocess(name, side)
    _try_side(network.eval(), name, how.side)
    return Backbone(
        name=name,
        module=network,
        features=features,
        preprocess=how,
        weights=choice.record,
    )


def _check_name(name: str) -> None:
    known = backbone_names()
    if name not in known:
        raise BackboneError(f"unknown backbone {name!r}. {nearest(name, known)}")


def _short(name: str) -> str:
    return name.removeprefix("torchvision/")


def _path(choice: WeightsChoice) -> Path:
    if choice.path is None:
        raise BackboneError(f"weights of kind {choice.kind!r} have no file")
    return choice.path


def _build(name: str, side: int | None) -> nn.Module:
    if name == NANO:
        nano: nn.Module = torchvision.models.mobilenet_v2(width_mult=0.35, num_classes=NANO_CLASSES)
        return nano
    extra: dict[str, Any] = {"aux_logits": False, "init_weights": True} if _short(name) in GOOGLE else {}
    if _short(name).startswith("vit_") and side is not None:
        extra["image_size"] = side
    try:
        network: nn.Module = get_model(_short(name), weights=None, **extra)
    except AssertionError as error:
        raise _cannot_read(name, side or 0, error) from error
    return network


def _find_head(network: nn.Module, name: str) -> tuple[str, nn.Linear | nn.Conv2d]:
    """Return the last layer that gives one number a class, with its dotted name."""
    classes = NANO_CLASSES if name == NANO else 1000
    for found, module in reversed(list(network.named_modules())):
        if isinstance(module, nn.Linear) and module.out_features == classes:
            return found, module
        if isinstance(module, nn.Conv2d) and module.out_channels == classes:
            return found, module
    raise BackboneError(f"{name}: no layer with {classes} outputs was found, so its head cannot be replaced")


def _preprocess(name: str, side: int | None) -> Preprocess:
    if name == NANO:
        return Preprocess(side=side or 96, fit="crop", mean=(125, 123, 114), std=(63.0, 62.0, 67.0))
    wanted = get_model_weights(_short(name)).DEFAULT.transforms()
    crop, resize = wanted.crop_size[0], wanted.resize_size[0]
    mean, std = ((0.5,) * 3, (0.5,) * 3) if _short(name) in GOOGLE else (wanted.mean, wanted.std)
    red, green, blue = (round(255 * value) for value in mean)
    return Preprocess(
        side=side or crop,
        fit="crop",
        crop_share=crop / resize,
        mean=(red, green, blue),
        std=(255 * std[0], 255 * std[1], 255 * std[2]),
    )


def _try_side(network: nn.Module, name: str, side: int) -> None:
    """Return if the network reads photos of this side: some shrink them to nothing, others are made for one size."""
    try:
        with torch.inference_mode():
            network(torch.zeros(1, 3, side, side))
    except (RuntimeError, AssertionError) as error:
        raise _cannot_read(name, side, error) from error


def _cannot_read(name: str, side: int, error: Exception) -> BackboneError:
    return BackboneError(
        f"{name}: cannot read photos of {side}x{side} pixels ({first_line(error)}). "
        f"Set --image-size {_preprocess(name, None).side}, which it is made for"
    )


def _download(name: str) -> dict[str, torch.Tensor]:
    default = get_model_weights(_short(name)).DEFAULT
    try:
        state: dict[str, torch.Tensor] = default.get_state_dict(progress=False, check_hash=True)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise MissingError(
            f"{name}: its weights cannot be downloaded from {default.url} ({error}). Give a file you have with "
            f"--weights FILE, use --backbone {NANO}, whose weights come with edgetl, or ask for --weights random"
        ) from error
    except RuntimeError as error:  # torch's word for a wrong hash
        raise MissingError(f"{name}: the download of {default.url} is damaged ({error}). Try again") from error
    return state
