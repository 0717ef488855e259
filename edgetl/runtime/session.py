"""A session runs one artifact on one engine: uint8 images in, logits out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib import import_module
from typing import Protocol, TypeAlias

import numpy as np

from edgetl.bundle import Artifact, Bundle
from edgetl.errors import MissingError, SessionError
from edgetl.records import FloatArray, ImageArray, ModelContent, TensorSpec
from edgetl.runtime.devices import devices_of
from edgetl.target import ENGINE_KINDS

__all__ = [
    "ENGINES",
    "Port",
    "Session",
    "check_border",
    "check_images",
    "find_stand_in",
    "open_artifact",
    "open_file",
    "open_session",
]

# Engine name -> the module whose `open_session` runs it; imported when used.
ENGINES = {
    "onnxruntime": "edgetl.runtime.on_onnxruntime",
    "openvino": "edgetl.runtime.on_openvino",
    "tensorrt": "edgetl.runtime.on_tensorrt",
}
# The engine that runs a plan, which each device makes of the artifact for itself.
PLANNED = "tensorrt"
LOG = logging.getLogger("edgetl")


# Name, type and shape of a tensor at a graph's border, -1 for a free dimension, as an engine says them.
Port: TypeAlias = tuple[str, str, tuple[int, ...]]


class Session(Protocol):
    """What every engine offers."""

    # Why something else answers than what was asked for; None where that does.
    degraded: str | None

    @property
    def artifact(self) -> Artifact:
        """What answers."""

    def run(self, images: ImageArray) -> FloatArray:
        """Return logits of shape (images, classes) for uint8 RGB images of shape (images, height, width, 3).

        Raises:
            SessionError: another dtype or shape, the session is closed, or the device is lost.
        """

    def close(self) -> None:
        """Give back what the engine holds; a second call does nothing."""


def open_session(
    bundle: Bundle, threads: int | None = None, fallback: bool = False, build_plan: bool = False
) -> Session:
    """Return a session on the bundle's artifact, whose hash is checked first.

    Args:
        bundle: the bundle to run.
        threads: overrides the threads that the manifest asks for; 0 leaves the choice to the engine.
        fallback: where the engine or the device that the bundle is for is not here, answer through what the bundle
            holds beside it; the session's `degraded` and a warning say so.
        build_plan: where the device makes a plan for itself and has none yet, let another process build it, and answer
            through what the bundle holds beside it until then.

    Raises:
        BundleError: the artifact is damaged.
        MissingError: the engine or the device is not here.
        SessionError: the engine refuses the artifact.
    """
    asked = bundle.manifest.artifact
    try:
        if asked.engine == PLANNED:
            planned: Session = import_module("edgetl.runtime.planned").open_planned(
                bundle, threads, fallback, build_plan
            )
            return planned
        return open_file(bundle, asked, threads)
    except (MissingError, SessionError) as error:
        stand_in = find_stand_in(bundle)
        if stand_in is None or stand_in.execution.device not in devices_of(stand_in.engine):
            if not fallback:
                raise
            other = (
                "nothing else" if stand_in is None else f"for that only what {stand_in.engine} runs, not here either"
            )
            raise type(error)(f"{error} (--fallback cannot help: the bundle holds {other})") from error
        if not fallback:
            way = f"{stand_in.engine} on {stand_in.execution.device} in {stand_in.precision}"
            raise type(error)(f"{error} (or let {way} answer: --fallback, in Python fallback=True)") from error
        session = open_file(bundle, stand_in, threads)
        session.degraded = stands_in(stand_in, error)
        LOG.warning("%s", session.degraded)
        return session


def stands_in(artifact: Artifact, why: object) -> str:
    """Return what a session says of itself that answers in place of what was asked for."""
    return f"{artifact.engine} on {artifact.execution.device} answers instead, in {artifact.precision}: {why}"


def find_stand_in(bundle: Bundle) -> Artifact | None:
    """Return what can answer on any device: the same artifact on the CPU, or one for another engine; None without."""
    asked, *others = bundle.manifest.artifacts
    if asked.engine != PLANNED and asked.execution.device != "cpu":
        return asked.model_copy(update={"execution": asked.execution.model_copy(update={"device": "cpu"})})
    return next((each for each in others if each.engine != PLANNED), None)


def open_artifact(model: ModelContent, artifact: Artifact) -> Session:
    """Return a session on an artifact's content; raises as `open_session` does."""
    if artifact.engine not in ENGINES:
        raise SessionError(f"engine {artifact.engine!r} is not known here. Known: {', '.join(ENGINES)}")
    if artifact.execution.device not in ENGINE_KINDS[artifact.engine].devices:
        devices = ", ".join(ENGINE_KINDS[artifact.engine].devices)
        raise SessionError(f"{artifact.engine} does not run on {artifact.execution.device!r}. It runs on: {devices}")
    session: Session = import_module(ENGINES[artifact.engine]).open_session(model, artifact)
    return session


def open_file(bundle: Bundle, artifact: Artifact, threads: int | None) -> Session:
    """Return a session on one of a bundle's artifacts; raises as `open_session` does."""
    if threads is not None:
        execution = artifact.execution.model_copy(update={"threads": threads})
        artifact = artifact.model_copy(update={"execution": execution})
    return open_artifact(bundle.read_model(artifact), artifact)


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
