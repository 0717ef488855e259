"""Golden images: what a bundle must answer, replayed on any engine."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgetl.bundle import Artifact, Bundle, Expected, Golden, Rung, write_file
from edgetl.errors import MissingError, ParityError
from edgetl.metrics import agreement
from edgetl.records import Device, FloatArray, ImageArray, Precision, Record
from edgetl.runtime.preprocess import open_photo, preprocess
from edgetl.runtime.session import Session, open_artifact

__all__ = [
    "GoldenResult",
    "Replayed",
    "Skipped",
    "Verified",
    "check_golden",
    "expect",
    "replay_golden",
    "verify_bundle",
    "write_golden",
]

INPUTS = "golden/inputs.npy"


class GoldenResult(Record):
    """How far this machine is from what the bundle expects."""

    images: int
    max_pixel_difference: int
    max_logit_difference: float
    top1_agreement: float


class Replayed(Record):
    """An artifact that answers here as it did in the build."""

    path: str
    engine: str
    device: Device
    precision: Precision
    golden: GoldenResult
    logit_tolerance: float


class Skipped(Record):
    """An artifact that this machine cannot run, and why."""

    path: str
    engine: str
    reason: str


class Verified(Record):
    """What `edgetl verify` found right; nothing is replayed where the bundle holds no golden photos. `engine` is the
    one that the bundle is for."""

    bundle: str
    engine: str
    files: int
    ladder: tuple[Rung, ...]
    replayed: tuple[Replayed, ...]
    skipped: tuple[Skipped, ...]


def write_golden(folder: Path, photos: Sequence[Path], images: ImageArray) -> Golden:
    """Return the manifest's entry, after writing photos and images into `folder`/golden; no answer is expected yet.

    Args:
        folder: the bundle being written.
        photos: the photo files, copied as they are.
        images: what they become, uint8 of shape (photos, height, width, 3).
    """
    names = []
    for index, photo in enumerate(photos):
        names.append(f"golden/{index:03d}{photo.suffix.lower()}")
        write_file(folder / names[-1], photo.read_bytes())
    _write_array(folder / INPUTS, images)
    # JPEG decoders of other libraries differ by one or two levels; a resize or colour fault by far more.
    return Golden(images=tuple(names), inputs=INPUTS, pixel_tolerance=3, expected={})


def expect(golden: Golden, folder: Path, artifact: Artifact, logits: FloatArray, tolerance: float) -> Golden:
    """Return the manifest's entry with what one more artifact answers, after writing that into `folder`/golden.

    Args:
        golden: the entry so far.
        folder: the bundle being written.
        artifact: whose answers these are.
        logits: of shape (photos, classes).
        tolerance: largest difference of a logit that is still the same answer.
    """
    name = f"golden/{Path(artifact.path).stem}.npy"
    _write_array(folder / name, logits)
    expected = {**golden.expected, artifact.path: Expected(logits=name, tolerance=tolerance)}
    return golden.model_copy(update={"expected": expected})


def replay_golden(bundle: Bundle, session: Session) -> GoldenResult | None:
    """Return how the golden images fare on a session; None where the bundle holds none.

    The photos are decoded and preprocessed here; the engine is judged on the exact images of the build.

    Raises:
        BundleError: a golden file is damaged.
        ParityError: pixels or logits differ by more than is allowed: this machine computes something else.
    """
    golden = bundle.manifest.golden
    if golden is None:
        return None
    expected = golden.expected[session.artifact.path]
    images: ImageArray = _read_array(bundle, golden.inputs)
    logits: FloatArray = _read_array(bundle, expected.logits)
    how = bundle.manifest.preprocess
    seen = np.stack([preprocess(open_photo(bundle.read(name)), how) for name in golden.images])
    found = np.concatenate([session.run(images[index : index + 1]) for index in range(len(images))])
    result = GoldenResult(
        images=len(images),
        max_pixel_difference=int(np.abs(seen.astype(np.int16) - images.astype(np.int16)).max()),
        max_logit_difference=float(np.abs(found - logits).max()),
        top1_agreement=agreement(found, logits),
    )
    check_golden(result, golden.pixel_tolerance, expected.tolerance)
    return result


def verify_bundle(folder: str | Path) -> Verified:
    """Return what was verified: every file's hash, then the golden images by each artifact that this machine can run.

    Raises:
        BundleError: no bundle there, or a damaged one.
        MissingError: the engine or device of every artifact is missing here.
        ParityError: this machine computes something else than the build did.
    """
    bundle = Bundle.open(folder)
    files = bundle.check_files()
    replayed, skipped, missing = [], [], []
    for artifact in bundle.manifest.artifacts:
        try:
            session = open_artifact(bundle.read_model(artifact), artifact)
        except MissingError as error:
            missing.append(error)
            skipped.append(Skipped(path=artifact.path, engine=artifact.engine, reason=str(error)))
            continue
        try:
            result = replay_golden(bundle, session)
        finally:
            session.close()
        if result is not None and bundle.manifest.golden is not None:
            replayed.append(
                Replayed(
                    path=artifact.path,
                    engine=artifact.engine,
                    device=artifact.execution.device,
                    precision=artifact.precision,
                    golden=result,
                    logit_tolerance=bundle.manifest.golden.expected[artifact.path].tolerance,
                )
            )
    if len(missing) == len(bundle.manifest.artifacts):
        raise missing[0]
    engine = bundle.manifest.artifact.engine
    return Verified(
        bundle=str(folder),
        engine=engine,
        files=files,
        ladder=bundle.manifest.ladder,
        replayed=tuple(replayed),
        skipped=tuple(skipped),
    )


def check_golden(result: GoldenResult, pixel_tolerance: int, logit_tolerance: float) -> None:
    """Return if the result is within the tolerances.

    Raises:
        ParityError: pixels or logits differ by more: this machine computes something else than the build did.
    """
    if result.max_pixel_difference > pixel_tolerance:
        raise ParityError(
            f"golden images are preprocessed differently here: a pixel differs by {result.max_pixel_difference} "
            f"levels, at most {pixel_tolerance} are expected. Is another image library in use?"
        )
    # A NaN compares false with everything, so the test is for being within.
    if not result.max_logit_difference <= logit_tolerance:
        raise ParityError(
            f"golden images are answered differently here: a logit differs by {result.max_logit_difference:.4g}, "
            f"at most {logit_tolerance:.4g} is expected. This engine computes something else than the build did"
        )


def _write_array(path: Path, array: FloatArray | ImageArray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_file(path, buffer.getvalue())


def _read_array(bundle: Bundle, name: str) -> Any:
    return np.load(io.BytesIO(bundle.read(name)), allow_pickle=False)
