"""Golden images: what a bundle must answer, replayed on any engine."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgetl.bundle import Bundle, Golden, write_file
from edgetl.errors import ParityError
from edgetl.metrics import agreement
from edgetl.records import FloatArray, ImageArray, Precision, Record
from edgetl.runtime.preprocess import open_photo, preprocess
from edgetl.runtime.session import Session, open_session

__all__ = ["GoldenResult", "Verified", "check_golden", "replay_golden", "verify_bundle", "write_golden"]


class GoldenResult(Record):
    """How far this machine is from what the bundle expects."""

    images: int
    max_pixel_difference: int
    max_logit_difference: float
    top1_agreement: float


class Verified(Record):
    """What `edgetl verify` found right; `golden` is None where the bundle holds no golden photos."""

    bundle: str
    files: int
    engine: str
    precision: Precision
    golden: GoldenResult | None
    logit_tolerance: float | None


def write_golden(
    folder: Path, photos: Sequence[Path], images: ImageArray, logits: FloatArray, logit_tolerance: float
) -> Golden:
    """Return the manifest's entry, after writing photos, images and logits into `folder`/golden.

    Args:
        folder: the bundle being written.
        photos: the photo files, copied as they are.
        images: what they become, uint8 of shape (photos, height, width, 3).
        logits: what the shipped artifact answers, of shape (photos, classes).
        logit_tolerance: largest difference of a logit that is still the same answer.
    """
    names = []
    for index, photo in enumerate(photos):
        names.append(f"golden/{index:03d}{photo.suffix.lower()}")
        write_file(folder / names[-1], photo.read_bytes())
    for name, array in (("inputs", images), ("logits", logits)):
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        write_file(folder / f"golden/{name}.npy", buffer.getvalue())
    return Golden(
        images=tuple(names),
        inputs="golden/inputs.npy",
        logits="golden/logits.npy",
        # JPEG decoders of other libraries differ by one or two levels; a resize or colour fault by far more.
        pixel_tolerance=3,
        logit_tolerance=logit_tolerance,
    )


def replay_golden(bundle: Bundle, session: Session) -> GoldenResult | None:
    """Return how the golden images fare on a session; None where the bundle holds none.

    The photos are decoded and preprocessed here; the engine is judged on the exact images of the build.

    Raises:
        BundleError: a golden file is damaged.
    """
    golden = bundle.manifest.golden
    if golden is None:
        return None
    images: ImageArray = np.load(io.BytesIO(bundle.read(golden.inputs)), allow_pickle=False)
    expected: FloatArray = np.load(io.BytesIO(bundle.read(golden.logits)), allow_pickle=False)
    how = bundle.manifest.preprocess
    seen = np.stack([preprocess(open_photo(bundle.read(name)), how) for name in golden.images])
    found = np.concatenate([session.run(images[index : index + 1]) for index in range(len(images))])
    return GoldenResult(
        images=len(images),
        max_pixel_difference=int(np.abs(seen.astype(np.int16) - images.astype(np.int16)).max()),
        max_logit_difference=float(np.abs(found - expected).max()),
        top1_agreement=agreement(found, expected),
    )


def verify_bundle(folder: str | Path) -> Verified:
    """Return what was verified: every file's hash, then the golden images on this machine's engine.

    Raises:
        BundleError: no bundle there, or a damaged one.
        MissingError: its engine is not installed here.
        ParityError: this machine computes something else than the build did.
    """
    bundle = Bundle.open(folder)
    files = bundle.check_files()
    session = open_session(bundle)
    try:
        result = replay_golden(bundle, session)
    finally:
        session.close()
    golden = bundle.manifest.golden
    if result is not None and golden is not None:
        check_golden(golden, result)
    artifact = bundle.manifest.artifact
    return Verified(
        bundle=str(folder),
        files=files,
        engine=artifact.engine,
        precision=artifact.precision,
        golden=result,
        logit_tolerance=golden.logit_tolerance if golden else None,
    )


def check_golden(golden: Golden, result: GoldenResult) -> None:
    """Return if the result is within the golden tolerances.

    Raises:
        ParityError: pixels or logits differ by more: this machine computes something else than the build did.
    """
    if result.max_pixel_difference > golden.pixel_tolerance:
        raise ParityError(
            f"golden images are preprocessed differently here: a pixel differs by {result.max_pixel_difference} "
            f"levels, at most {golden.pixel_tolerance} are expected. Is another image library in use?"
        )
    # A NaN compares false with everything, so the test is for being within.
    if not result.max_logit_difference <= golden.logit_tolerance:
        raise ParityError(
            f"golden images are answered differently here: a logit differs by {result.max_logit_difference:.4g}, "
            f"at most {golden.logit_tolerance:.4g} is expected. This engine computes something else than the build did"
        )
