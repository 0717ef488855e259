"""Artifacts in a folder: compiled for an engine and written there, measured, and opened."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from edgetl.bundle import Artifact, write_file
from edgetl.compile import ModelInfo, compile_graph, in_float32
from edgetl.errors import MissingError
from edgetl.records import Execution, FloatArray, ImageArray, ModelContent, Precision
from edgetl.runtime import PLANNED, Session, open_artifact, open_reference
from edgetl.target import EngineProfile

__all__ = ["copy_artifact", "open_here", "open_written", "run_core", "size_of", "tolerance", "write_artifact"]

# How far a logit may be off, as a share of the largest. Float engines differ by rounding; INT8 kernels of other
# processors round each layer their own way.
TOLERANCES: dict[Precision, float] = {"fp32": 1e-3, "fp16": 0.02, "bf16": 0.05, "int8": 0.05, "int8+fp16": 0.05}


def write_artifact(folder: Path, core: bytes, precision: Precision, engine: EngineProfile, info: ModelInfo) -> Artifact:
    """Return the entry of a core graph's artifact for an engine, after compiling it and writing its files."""
    made = compile_graph(core, engine.name, info)
    artifact = Artifact(
        path=f"{precision}{made.suffix}", weights=f"{precision}{made.weights_suffix}" if made.weights_suffix else None,
        engine=engine.name, precision=precision, execution=engine.execution, input=made.input, output=made.output,
    )  # fmt: skip
    _write(folder, artifact, made.content)
    return artifact


def run_core(core: bytes, images: ImageArray, like: Artifact) -> FloatArray:
    """Return what a core graph, or one that ends earlier, gives for images when it is compiled for an artifact's engine
    and run as that one is; nothing is written."""
    made = compile_graph(core, like.engine)
    artifact = like.model_copy(update={"input": made.input, "output": made.output})
    with closing(open_artifact(made.content, artifact)) as session:
        return session.run(images)


def copy_artifact(source: Path, artifact: Artifact, folder: Path, stem: str) -> Artifact:
    """Return the artifact's entry under another name, after copying its files into `folder`."""
    renamed = artifact.model_copy(
        update={
            "path": stem + Path(artifact.path).suffix,
            "weights": stem + Path(artifact.weights).suffix if artifact.weights else None,
        }
    )
    _write(folder, renamed, _read(source, artifact))
    return renamed


def open_written(folder: Path, artifact: Artifact) -> Session:
    """Return a session on an artifact in a folder, as the target's engine will run it.

    Raises:
        MissingError: its engine or device is not here.
    """
    return open_artifact(_read(folder, artifact), artifact)


def open_here(folder: Path, artifact: Artifact) -> Session:
    """Return a session on an artifact in a folder: by its own engine and device or, where these are not here, by what
    computes the same graph on this CPU, TensorRT's in float32; the session's artifact says which."""
    try:
        return open_written(folder, artifact)
    except MissingError:
        if artifact.engine == PLANNED:
            graph = in_float32(_read(folder, artifact).graph)
            return open_reference(ModelContent(graph=graph), artifact)
        return open_written(folder, artifact.model_copy(update={"execution": Execution()}))


def tolerance(artifact: Artifact) -> float:
    """Return how far a logit may be off on the device, as a share of the largest logit."""
    halved = artifact.execution.device == "npu"  # it has no float32
    return max(TOLERANCES[artifact.precision], TOLERANCES["fp16"] if halved else 0.0)


def size_of(folder: Path, artifact: Artifact) -> int:
    """Return the bytes of an artifact's files."""
    return sum((folder / name).stat().st_size for name in artifact.files)


def _read(folder: Path, artifact: Artifact) -> ModelContent:
    weights = (folder / artifact.weights).read_bytes() if artifact.weights else None
    return ModelContent(graph=(folder / artifact.path).read_bytes(), weights=weights)


def _write(folder: Path, artifact: Artifact, content: ModelContent) -> None:
    write_file(folder / artifact.path, content.graph)
    if artifact.weights is not None and content.weights is not None:
        write_file(folder / artifact.weights, content.weights)
