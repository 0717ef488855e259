"""Load for a server: as much as it takes, or so much a second whether it takes it or not."""

from __future__ import annotations

import asyncio
import io
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from PIL import Image


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """One answer: its status and body, when the request went out, when the answer came, and how long after the request
    was due that was.

    Status 0 says that the connection broke.
    """

    status: int
    sent: float
    came: float
    seconds: float
    body: bytes = b""


@dataclass(slots=True)
class Load:
    """What came of a load."""

    sent: int = 0
    told: list[Told] = field(default_factory=list)

    @property
    def statuses(self) -> Counter[int]:
        """How many answers there were of each status."""
        return Counter(each.status for each in self.told)

    def a_second(self, status: int) -> float:
        """Return how many answers of a status came a second, from the first request to the last such answer."""
        came = [each.came for each in self.told if each.status == status]
        return len(came) / (max(came) - min(each.sent for each in self.told)) if came else 0.0

    def percentile_ms(self, share: float, *statuses: int) -> float:
        """Return how long a share of the answers of these statuses took at the most."""
        return 1000 * float(np.percentile([each.seconds for each in self.told if each.status in statuses], share))


def slow_photo() -> bytes:
    """Return a photo that takes few bytes to send and some 30 ms to read, so that little load is much."""
    saved = io.BytesIO()
    Image.new("RGB", (2400, 1600), (90, 120, 60)).save(saved, "PNG", compress_level=9)
    return saved.getvalue()


def request_for(body: bytes, token: str = "") -> bytes:
    """Return a whole request to /predict."""
    lines = ["POST /predict HTTP/1.1", "Host: here", f"Content-Length: {len(body)}"]
    lines += [f"Authorization: Bearer {token}"] if token else []
    return "\r\n".join([*lines, "", ""]).encode() + body


def closed_loop(port: int, request: bytes, connections: int, seconds: float = 1e9, most: float = 1e9) -> Load:
    """Send on so many connections, on each the next request as soon as the last is answered, until one end is there."""
    load = Load()
    end = time.monotonic() + seconds

    async def run() -> None:
        def again(client: _Client) -> None:
            if time.monotonic() < end and load.sent < most and not client.is_closed:
                load.sent += 1
                client.send(time.monotonic())

        clients = [await _connect(port, request, load, again) for _ in range(connections)]
        for client in clients:
            again(client)
        await _settle(load, clients)

    asyncio.run(run())
    return load


def open_loop(port: int, request: bytes, rate: float, seconds: float) -> Load:
    """Send so many requests a second, whatever is answered."""
    load = Load()

    async def run() -> None:
        idle: list[_Client] = []
        clients: list[_Client] = []
        start = time.monotonic()
        for index in range(int(rate * seconds)):
            due = start + index / rate
            if (early := due - time.monotonic()) > 0:
                await asyncio.sleep(early)
            while idle and idle[-1].is_closed:
                idle.pop()
            if idle:
                client = idle.pop()
            else:
                client = await _connect(port, request, load, idle.append)
                clients.append(client)
            load.sent += 1
            client.send(due)
        await _settle(load, clients)

    asyncio.run(run())
    return load


async def _connect(port: int, request: bytes, load: Load, ready: Callable[[_Client], None]) -> _Client:
    _, client = await asyncio.get_running_loop().create_connection(
        lambda: _Client(request, load, ready), "127.0.0.1", port
    )
    return client


async def _settle(load: Load, clients: list[_Client]) -> None:
    """Wait for what was sent to be answered, then hang up."""
    end = time.monotonic() + 30
    while len(load.told) < load.sent and time.monotonic() < end:
        await asyncio.sleep(0.02)
    for client in clients:
        client.close()


class _Client(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, request: bytes, load: Load, ready: Callable[[_Client], None]) -> None:
        self._request = request
        self._load = load
        self._ready = ready
        self._due: float | None = None
        self._sent = 0.0
        self._got = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    @property
    def is_closed(self) -> bool:
        return self._transport.is_closing()

    def send(self, due: float) -> None:
        self._due, self._sent = due, time.monotonic()
        self._transport.write(self._request)

    def close(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, blank, rest = self._got.partition(b"\r\n\r\n")
        if not blank:
            return
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(rest) < length:
            return
        self._got = rest[length:]
        self._note(int(head[9:12]), rest[:length])
        self._ready(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._note(0, b"")

    def _note(self, status: int, body: bytes) -> None:
        if self._due is not None:
            now = time.monotonic()
            self._load.told.append(Told(status=status, sent=self._sent, came=now, seconds=now - self._due, body=body))
            self._due = None
