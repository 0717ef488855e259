"""Requests that are none: broken forms, requests that two parsers read otherwise, and names that lead elsewhere."""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Iterator


def forms(count: int, most_bytes: int) -> Iterator[tuple[str, bytes]]:
    """Yield multipart bodies that are none, with the Content-Type that they come with."""
    draw = random.Random(9)
    part = (
        b'Content-Disposition: form-data; name="file"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\nnot a photo'
    )
    ways: tuple[Callable[[], tuple[str, bytes]], ...] = (
        lambda: ("edge", b"--edge\r\n" + part),
        lambda: ("edge", b"--edge\r\n" + part + b"\r\n--edge"),
        lambda: ("edge", b"--edge--\r\n"),
        lambda: ("edge", b"--other\r\n" + part + b"\r\n--other--\r\n"),
        lambda: ("edge", b"\r\n" * draw.randint(1, 200_000)),
        lambda: ("edge", b"-" * draw.randint(1, 500_000)),
        lambda: ("edge", b"--edge\r\n" + b"X: " + b"y" * draw.randint(1, 500_000)),
        lambda: ("edge", b"--edge\r\n" + b"X: y\r\n" * draw.randint(1, 50_000) + b"\r\nx\r\n--edge--\r\n"),
        lambda: ("edge", (b"--edge\r\n" + part + b"\r\n") * draw.randint(65, 4_000) + b"--edge--\r\n"),
        lambda: ("edge", b"--edge\r\n\r\n\r\n" * draw.randint(65, 40_000) + b"--edge--\r\n"),
        lambda: ("edge", b"--edge\r\n" + part + b"\r\n--edg" * draw.randint(1, 50_000)),
        lambda: ("edge", b"--edge\r\n" + draw.randbytes(draw.randint(1, 100_000))),
        lambda: ("e" * draw.randint(71, 8_000), b"--" + b"e" * 71 + b"\r\n" + part),
        lambda: ("", b"--\r\n" + part + b"\r\n----\r\n"),
        lambda: ("-", b"---\r\n" * draw.randint(1, 50_000)),
        lambda: ("edge", b"--edge\r\n" + part.replace(b"file", b"\x00\xff" * draw.randint(1, 9_000)) + b"\r\n--edge--"),
        lambda: ("edge", b"--edge\n" + part.replace(b"\r\n", b"\n") + b"\n--edge--\n"),
        lambda: ("edge", b"--edge\r\nContent-Transfer-Encoding: base64\r\n\r\n" + b"=" * 999 + b"\r\n--edge--\r\n"),
    )
    for index in range(count):
        boundary, body = ways[index % len(ways)]()
        yield f"multipart/form-data; boundary={boundary}", body[:most_bytes]


def smuggled() -> Iterator[tuple[str, bytes]]:
    """Yield requests that two parsers may read otherwise, each with a second one where one of them would see it."""
    inner = b"GET /smuggled HTTP/1.1\r\nHost: here\r\n\r\n"
    chunked = b"0\r\n\r\n"

    def post(*lines: bytes, body: bytes = b"hello") -> bytes:
        return b"\r\n".join((b"POST /predict HTTP/1.1", b"Host: here", *lines)) + b"\r\n\r\n" + body + inner

    for value in (
        b"+5", b"-5", b"5 5", b"5,5", b"5, 6", b"0x5", b"5x", b"", b"5.0", b"5;q=1", b"\xd9\xa5", b"5\x00", b"5\x0b",
        b"1" * 40, b"5\t6", b"\"5\"",
    ):  # fmt: skip
        yield f"length {value!r}", post(b"Content-Length: " + value)
    for other in (b"6", b"4", b"0"):
        yield f"lengths 5 and {other!r}", post(b"Content-Length: 5", b"Content-Length: " + other)
    for value in (
        b"chunked", b"CHUNKED", b"chunked, identity", b"identity, chunked", b"chunked,", b"x", b"xchunked", b"chunkedx",
        b"gzip, chunked", b"\"chunked\"", b"chunked;q=1", b"chunked chunked",
    ):  # fmt: skip
        line = b"Transfer-Encoding: " + value
        yield f"both lengths, {value!r}", post(b"Content-Length: 5", line, body=chunked)
        yield f"both lengths, {value!r} first", post(line, b"Content-Length: 5", body=chunked)
    for value in (b"x", b"chunked, identity", b"identity", b"xchunked", b"chunkedx", b"chunked;q=1"):
        yield f"encoding {value!r}", post(b"Transfer-Encoding: " + value, body=chunked)
    for line in (
        b"Content-Length : 5", b"Content-Length\t: 5", b" Content-Length: 5", b"Transfer-Encoding : chunked",
        b"X: y\r\n Content-Length: 5", b"X: y\rContent-Length: 5", b"X\x00: y", b"X: y\x00z", b": x", b"no colon",
        b"Content-Length: 5\r\nTransfer\xffEncoding: chunked", b"X: y\nContent-Length: 5",
    ):  # fmt: skip
        yield f"line {line!r}", post(line)
    for size in (b"0x5", b"+5", b"-5", b"5 5", b"g", b"", b"f" * 17, b" 5", b"5_0"):
        start = size + b"\r\nhello\r\n0\r\n\r\n"
        yield f"chunk of {size!r}", post(b"Transfer-Encoding: chunked", body=start)
    yield "chunk longer than it says", post(b"Transfer-Encoding: chunked", body=b"3\r\nhello\r\n0\r\n\r\n")
    yield "chunk without its end", post(b"Transfer-Encoding: chunked", body=b"5\r\nhello0\r\n\r\n")
    for start in (
        b"POST /predict HTTP/1.1 x", b"POST /predict HTTP/9.9", b"POST /pre dict HTTP/1.1",
        b"POST /predict", b"POST /predict http/1.1", b"\x00POST /predict HTTP/1.1", b"POST /predict HTTP/1.1\x00",
        b"PO ST /predict HTTP/1.1",
    ):  # fmt: skip
        yield f"request line {start!r}", start + b"\r\nHost: here\r\nContent-Length: 5\r\n\r\nhello" + inner


def names(count: int) -> Iterator[str]:
    """Yield names of models that would lead elsewhere, if they led anywhere: fixed ones, then so many drawn."""
    parts = ("..", ".", "...", "etc", "passwd", "%2e%2e", "%252e", "~root", "C:", "CON", "a" * 300, "\x00", "‥", "proc")
    joints = ("/", "\\", "%2f", "%5c", "%252f", "//", "/./", "%c0%af", ";", "%00", "?", "#", "|")
    for first in parts:
        for joint in joints:
            for last in ("tiny", "../../../../etc/passwd"):
                yield f"{first}{joint}{last}"
    draw = random.Random(17)
    letters = string.ascii_letters + "./\\%~:;?#&=$`'\"<>|\x00\n é‥\uff0f"
    for _ in range(count):
        yield "".join(draw.choice(letters) for _ in range(draw.randint(1, 40)))
