"""Photos that are none: images that claim to be huge, that unpack to much, or of formats that no camera sends."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, features

PNG = b"\x89PNG\r\n\x1a\n"
SIDES = ((65_535, 65_535), (5_001, 5_000), (2**31 - 1, 1), (1, 2**31 - 1), (2**31 - 1, 2**31 - 1), (100_000, 251))
# What Pillow opens besides, all with decoders that no stranger needs to reach.
OTHERS = (
    "BMP", "DDS", "DIB", "EPS", "GIF", "ICNS", "ICO", "MSP", "PCX", "PDF", "PPM", "SGI", "SPIDER", "TGA", "TIFF",
    "XBM",
)  # fmt: skip


def bombs() -> dict[str, bytes]:
    """Return every one by its name."""
    made = {f"png {width}x{height}": _png(width, height) for width, height in SIDES}
    made |= {f"jpeg {width}x{height} {sof:x}": _jpeg(width, height, sof) for width, height, sof in JPEGS}
    made |= {f"webp {name}": content for name, content in _webps()}
    made |= dict(_others())
    flat = io.BytesIO()
    Image.new("L", (9_000, 9_000)).save(flat, "PNG")
    made["png that unpacks to 81 MB"] = flat.getvalue()
    packed = zlib.compress(b"\0" * (80 << 20), 9)
    made["png with 80 MB of text"] = _png(32, 32, _chunk(b"zTXt", b"a\0\0" + packed))
    made["png with 80 MB of international text"] = _png(32, 32, _chunk(b"iTXt", b"a\0\1\0\0\0" + packed))
    made["png with 80 MB of colours"] = _png(32, 32, _chunk(b"iCCP", b"a\0\0" + packed))
    made["png with a chunk longer than itself"] = PNG + struct.pack(">I4s", 2**31 - 1, b"IHDR")
    made["png of no size"] = _png(0, 0)
    made["jpeg of no size"] = _jpeg(0, 0, 0xC0)
    made["svg"] = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
    made["gzip"] = b"\x1f\x8b\x08" + bytes(100)
    made["nothing but zeros"] = bytes(1 << 16)
    return made


def mutants(count: int, seed: int) -> Iterator[bytes]:
    """Yield photos with a few bytes changed, cut out, put in, or cut off."""
    draw = random.Random(seed)
    seeds = list(_small())
    for _ in range(count):
        content = bytearray(draw.choice(seeds))
        for _ in range(draw.randint(1, 4)):
            place = draw.randrange(len(content))
            way = draw.randrange(4)
            if way == 0:
                content[place] = draw.randrange(256)
            elif way == 1:
                del content[place : place + draw.randint(1, 16)]
            elif way == 2:
                content[place:place] = draw.randbytes(draw.randint(1, 16))
            else:
                content[place:] = content[place : place + draw.randint(1, 64)]
            content = content or bytearray(b"?")
        yield bytes(content)


JPEGS = (
    *((65_500, 65_500, sof) for sof in (0xC0, 0xC1, 0xC2, 0xC9)),
    (65_500, 400, 0xC0),
    (400, 65_500, 0xC2),
)  # fmt: skip


def _small() -> Iterator[bytes]:
    pixels = np.random.default_rng(5).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    ways: tuple[tuple[str, str, dict[str, object]], ...] = (
        ("RGB", "JPEG", {}), ("L", "JPEG", {"progressive": True}), ("CMYK", "JPEG", {}), ("RGB", "PNG", {}),
        ("P", "PNG", {}), ("RGBA", "PNG", {}), ("RGB", "WEBP", {}), ("RGB", "WEBP", {"lossless": True}),
    )  # fmt: skip
    for mode, kind, how in ways:
        saved = io.BytesIO()
        Image.fromarray(pixels).convert(mode).save(saved, kind, **how)
        yield saved.getvalue()


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(width: int, height: int, *chunks: bytes) -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    rows = _chunk(b"IDAT", zlib.compress(b"\0" * 4096))
    return PNG + header + b"".join(chunks) + rows + _chunk(b"IEND", b"")


def _jpeg(width: int, height: int, sof: int) -> bytes:
    saved = io.BytesIO()
    Image.new("RGB", (8, 8)).save(saved, "JPEG")
    content = bytearray(saved.getvalue())
    place = content.index(b"\xff\xc0")
    content[place + 1] = sof
    content[place + 5 : place + 9] = struct.pack(">HH", height, width)
    return bytes(content)


def _webps() -> Iterator[tuple[str, bytes]]:
    def riff(chunk: bytes) -> bytes:
        return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk

    most = 16_383
    lossy = b"\x30\x01\x00\x9d\x01\x2a" + struct.pack("<HH", most, most) + bytes(64)
    yield "lossy", riff(b"VP8 " + struct.pack("<I", len(lossy)) + lossy)
    lossless = b"\x2f" + struct.pack("<I", most | most << 14) + bytes(64)
    yield "lossless", riff(b"VP8L" + struct.pack("<I", len(lossless)) + lossless)
    canvas = bytes(4) + (2**24 - 1).to_bytes(3, "little") * 2
    yield "canvas", riff(b"VP8X" + struct.pack("<I", len(canvas)) + canvas)
    yield "animated", riff(b"VP8X" + struct.pack("<I", len(canvas)) + b"\x02" + canvas[1:])


def _others() -> Iterator[tuple[str, bytes]]:
    for kind in OTHERS:
        saved = io.BytesIO()
        mode = {"MSP": "1", "XBM": "1", "SPIDER": "F"}.get(kind, "RGB")
        Image.new(mode, (64, 64)).save(saved, kind)
        yield kind.lower(), saved.getvalue()
    for kind, codec in (("JPEG2000", "jpg_2000"), ("AVIF", "avif")):
        if features.check(codec):
            saved = io.BytesIO()
            Image.new("RGB", (64, 64)).save(saved, kind)
            yield kind.lower(), saved.getvalue()
