"""Turns a photo into the uint8 image that the network reads: the one place where this is defined."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from edgetl.errors import DataError
from edgetl.records import ImageArray, Preprocess

__all__ = ["FORMATS", "MAX_PIXELS", "Photo", "fit_photo", "open_photo", "paint_border", "preprocess"]

# Named one by one, so that a file cannot choose a rarely used decoder.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
# Larger photos are refused by their header, before a byte is decoded (80 megapixels: what phones take today).
MAX_PIXELS = 80_000_000

# EXIF orientation -> how a photo is turned upright (EXIF 2.3, tag 0x0112).
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What Pillow and its decoders raise on damaged or huge files.
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)

Photo: TypeAlias = "str | Path | bytes | Image.Image | ImageArray"


def preprocess(photo: Image.Image, how: Preprocess) -> ImageArray:
    """Return the network's input: uint8 RGB of shape (height, width, 3), border included."""
    return paint_border(fit_photo(photo, how), how)


def open_photo(source: Photo, max_pixels: int = MAX_PIXELS, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """Return an RGB photo, turned upright by its EXIF orientation.

    16-bit grey is scaled to 8 bits, transparency is laid over white, CMYK is converted, still GIFs are read.

    Args:
        source: a path, encoded bytes, a Pillow image, or a uint8 RGB array of shape (height, width, 3).
        max_pixels: refuse photos with more pixels than this, from the header alone.
        formats: Pillow's names of what is read.

    Raises:
        DataError: not a picture, truncated, animated, too large, or an array of another shape or type.
    """
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or not source.size:
            raise DataError(
                f"an image array must be uint8 RGB of shape (height, width, 3), found {source.dtype} {source.shape}"
            )
        return Image.fromarray(source)
    if isinstance(source, Image.Image):
        return _as_rgb(_upright(source))
    if not isinstance(source, str | Path | bytes):
        raise DataError(
            f"a photo is a path, encoded bytes, a Pillow image or a uint8 RGB array, found {type(source).__name__}"
        )
    name = "the image sent" if isinstance(source, bytes) else str(source)
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats) as photo:
            if photo.width * photo.height > max_pixels:
                raise DataError(
                    f"{name}: {photo.width}x{photo.height} is {photo.width * photo.height / 1e6:.0f} megapixels, "
                    f"but at most {max_pixels / 1e6:.0f} are read. Make it smaller"
                )
            frames = getattr(photo, "n_frames", 1)
            if frames > 1 and photo.format != "MPO":  # what phones write for a JPEG with a preview
                raise DataError(
                    f"{name}: holds {frames} frames, but a still picture is needed. Save the frame you mean"
                )
            photo.load()
            return _as_rgb(_upright(photo))
    except FileNotFoundError:
        raise DataError(f"{name}: no such file") from None
    except IsADirectoryError:
        raise DataError(f"{name}: a folder, but a photo is needed") from None
    except UnidentifiedImageError:
        raise DataError(f"{name}: not a picture in a format that is read ({', '.join(formats)})") from None
    except DataError:
        raise
    except _DAMAGED as error:
        raise DataError(f"{name}: cannot be decoded: {error}") from error


def fit_photo(photo: Image.Image, how: Preprocess) -> ImageArray:
    """Return the photo fitted to the square, without border: uint8 RGB of shape (side, side, 3)."""
    width, height = photo.size
    square = (how.side, how.side)
    if how.fit == "squash":
        return np.asarray(photo.resize(square, Image.Resampling.BILINEAR))
    if how.fit == "crop":
        edge = how.crop_share * min(width, height)
        left, top = (width - edge) / 2, (height - edge) / 2
        box = (left, top, left + edge, top + edge)
        return np.asarray(photo.resize(square, Image.Resampling.BILINEAR, box=box))
    scale = how.side / max(width, height)
    inner = (max(1, round(width * scale)), max(1, round(height * scale)))
    canvas = Image.new("RGB", square, how.mean)
    canvas.paste(
        photo.resize(inner, Image.Resampling.BILINEAR), ((how.side - inner[0]) // 2, (how.side - inner[1]) // 2)
    )
    return np.asarray(canvas)


def paint_border(image: ImageArray, how: Preprocess) -> ImageArray:
    """Return the square image of shape (side, side, 3) inside its border: shape (height, width, 3)."""
    if (how.height, how.width) == image.shape[:2]:
        return image
    painted = np.empty((how.height, how.width, 3), dtype=np.uint8)
    painted[:] = how.mean
    top, left = how.border.top, how.border.left
    painted[top : top + how.side, left : left + how.side] = image
    return painted


def _upright(photo: Image.Image) -> Image.Image:
    """Return the photo turned as its EXIF orientation says; damaged EXIF says nothing."""
    try:
        orientation = photo.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # Pillow's EXIF parser raises many unrelated classes, and the pixels are sound
        return photo
    turn = TURNS.get(orientation) if isinstance(orientation, int) else None
    return photo if turn is None else photo.transpose(turn)


def _as_rgb(photo: Image.Image) -> Image.Image:
    if photo.mode == "RGB" and "transparency" not in photo.info:
        return photo
    if photo.mode.startswith("I;16"):
        grey = np.asarray(photo).astype(np.uint32)
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")
    if photo.mode in {"I", "F"}:
        raise DataError(
            f"pixels of mode {photo.mode} have no agreed range. Save the picture with 8 or 16 bits a channel"
        )
    if photo.mode in {"RGBA", "LA", "PA"} or "transparency" in photo.info:
        over = photo.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", over.size, "white"), over).convert("RGB")
    return photo.convert("RGB")
