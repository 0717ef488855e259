"""A session runs one artifact on one engine: uint8 images in, logits out."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Protocol, TypeAlias

import numpy as np

from edgetl.bundle import Artifact, Bundle
from edgetl.errors import SessionError
from edgetl.records import FloatArray, ImageArray, ModelContent, TensorSpec

__all__ = ["ENGINES", "Port", "Session", "check_border", "check_images", "open_artifact", "open_session"]

# Engine name -> the module whose `open_session` runs it; imported when used.
ENGINES = {
    "onnxruntime": "edgetl.runtime.on_onnxruntime",
    "openvino": "edgetl.runtime.on_openvino",
}


# Name, type and shape of a tensor at a graph's border, -1 for a free dimension, as an engine says them.
Port: TypeAlias = tuple[str, str, tuple[int, ...]]


class Session(Protocol):
    """What every engine offers."""

    input: TensorSpec
    output: TensorSpec

    def run(self, images: ImageArray) -> FloatArray:
        """Return logits of shape (images, classes) for uint8 RGB images of shape (images, height, width, 3).

        Raises:
            SessionError: another dtype or shape, or the session is closed.
        """

    def close(self) -> None:
        """Give back what the engine holds; a second call does nothing."""


def open_session(bundle: Bundle, threads: int | None = None) -> Session:
    """Return a session on the bundle's artifact, whose hash is checked first.

    Args:
        bundle: the bundle to run.
        threads: overrides the threads that the manifest asks for; 0 leaves the choice to the engine.

    Raises:
        BundleError: the artifact is damaged.
        MissingError: the engine is not installed here.
        SessionError: the engine refuses the artifact.
    """
    artifact = bundle.manifest.artifact
    return open_artifact(bundle.read_model(), artifact, artifact.threads if threads is None else threads)


def open_artifact(model: ModelContent, artifact: Artifact, threads: int) -> Session:
    """Return a session on an artifact's content; raises as `open_session` does."""
    if artifact.engine not in ENGINES:
        raise SessionError(f"engine {artifact.engine!r} is not known here. Known: {', '.join(ENGINES)}")
    session: Session = import_module(ENGINES[artifact.engine]).open_session(model, artifact, threads)
    return session


def check_border(artifact: Artifact, reads: Sequence[Port], gives: Sequence[Port]) -> None:
    """Return if the engine's graph has the border that the artifact says.

    Raises:
        SessionError: other names, types, shapes or numbers of tensors.
    """
    read, given = ((spec.name, spec.dtype, spec.shape) for spec in (artifact.input, artifact.output))
    # Engines state the output's shape as loosely as the graph does, so its name and type must do.
    if list(reads) != [read] or [port[:2] for port in gives] != [given[:2]]:
        raise SessionError(
            f"{artifact.path}: has inputs {list(reads)} and outputs {list(gives)}, the manifest says {read} and {given}"
        )


def check_images(images: ImageArray, spec: TensorSpec) -> None:
    """Return if the images fit the tensor that the engine reads.

    Raises:
        SessionError: another dtype or shape.
    """
    fits = images.ndim == len(spec.shape) and all(
        wanted in (-1, found) for wanted, found in zip(spec.shape, images.shape, strict=True)
    )
    if images.dtype != np.dtype(spec.dtype) or not fits or len(images) == 0:
        wanted = ", ".join("images" if size == -1 else str(size) for size in spec.shape)
        raise SessionError(
            f"input {spec.name!r} must be {spec.dtype} of shape ({wanted}), found {images.dtype} {images.shape}. "
            "`edgetl.runtime.preprocess` makes such an array from a photo"
        )
