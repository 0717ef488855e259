"""Photos as they come over HTTP, and what is answered for them."""

from __future__ import annotations

import json
import time

import numpy as np
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from edgetl.records import Preprocess
from edgetl.runtime import open_photo, preprocess
from edgetl.runtime.postprocess import TASKS
from edgetl.serve.batcher import Answered, Read
from edgetl.serve.models import Model
from edgetl.serve.replies import RefusedError, Reply

__all__ = ["fit_photos", "read_photos", "write_predictions"]

# What cameras and browsers send; a server opens no rarer decoder for strangers.
FORMATS = ("JPEG", "PNG", "WEBP")
MOST_PHOTOS = 64
# Of the pixels that one photo may have: what all photos of a request may have together.
MOST_TIMES = 10


def read_photos(body: bytes, media_type: bytes, how: Preprocess, max_pixels: int) -> Read:
    """Return the photos of a body, fitted: one as it is, or several as multipart/form-data.

    Raises:
        DataError: one of them is no photo, or a damaged one.
        RefusedError: there is none, or there are too many, or too large ones.
    """
    if not body:
        raise RefusedError(400, "malformed", "the body is empty. Send a photo: curl --data-binary @photo.jpg ...")
    if media_type.startswith(b"multipart/"):
        return fit_photos(_files_of(body, media_type), how, max_pixels)
    return fit_photos((body,), how, max_pixels)


def fit_photos(photos: tuple[bytes, ...], how: Preprocess, max_pixels: int) -> Read:
    """Return encoded photos as the network reads them; raises as `read_photos` does."""
    # One photo after another: many together may take more memory than there is.
    images, left, decoding, fitting = [], MOST_TIMES * max_pixels, 0.0, 0.0
    for content in photos:
        start = time.monotonic()
        photo = open_photo(content, max_pixels, FORMATS)
        decoded = time.monotonic()
        images.append(preprocess(photo, how))
        decoding += decoded - start
        fitting += time.monotonic() - decoded
        left -= photo.width * photo.height
        if left < 0:
            most = MOST_TIMES * max_pixels / 1e6
            raise RefusedError(
                413, "too_large", f"the photos have more than {most:.0f} megapixels together. Send fewer"
            )
    stacked = images[0][None] if len(images) == 1 else np.stack(images)
    return Read(images=stacked, decode_seconds=decoding, preprocess_seconds=fitting)


def _files_of(body: bytes, media_type: bytes) -> tuple[bytes, ...]:
    """Return the content of every part of a multipart body that has any."""
    _, options = parse_options_header(media_type)
    boundary = options.get(b"boundary")
    if not boundary:
        raise RefusedError(400, "malformed", "multipart/form-data needs a boundary")
    parts: list[bytearray] = []

    def begin() -> None:
        if len(parts) == MOST_PHOTOS:
            raise RefusedError(413, "too_large", f"at most {MOST_PHOTOS} photos are taken at once")
        parts.append(bytearray())

    def take(data: bytes, start: int, end: int) -> None:
        parts[-1] += data[start:end]

    ended: list[bool] = []
    try:
        parser = MultipartParser(
            boundary, {"on_part_begin": begin, "on_part_data": take, "on_end": lambda: ended.append(True)}
        )
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise RefusedError(400, "malformed", f"the body is not multipart/form-data: {error}") from None
    photos = tuple(bytes(part) for part in parts if part)
    if not ended or not photos:
        raise RefusedError(400, "malformed", "the multipart body is cut off, or holds no photo")
    return photos


def write_predictions(model: Model, top: int, answered: Answered) -> Reply:
    """Return the most likely labels of each photo, and where the time went."""
    start = time.monotonic()
    manifest = model.bundle.manifest
    answer = TASKS[manifest.task]
    predictions = [answer(row, manifest.labels, top) for row in answered.logits]
    read = answered.read
    seconds = {
        "queue": answered.queue_seconds,
        "decode": read.decode_seconds,
        "preprocess": read.preprocess_seconds,
        "inference": answered.inference_seconds,
        "postprocess": time.monotonic() - start,
    }
    told = {
        "model": model.name,
        "version": model.version,
        "predictions": [
            {
                "label": scores[0].label,
                "score": scores[0].score,
                "scores": [{"label": each.label, "score": each.score} for each in scores],
            }
            for scores in predictions
        ],
        "time_ms": {step: round(1000 * spent, 3) for step, spent in seconds.items()},
    }
    return Reply(body=json.dumps(told, separators=(",", ":"), ensure_ascii=False).encode())
