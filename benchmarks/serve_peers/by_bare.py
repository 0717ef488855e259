"""The least that a server of this kind does: a bare protocol of uvloop's that checks nothing, and the Predictor on
threads. What it takes longer than the Predictor alone, every server with an event loop beside threads takes."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from queue import SimpleQueue
from threading import Thread

import uvloop

from edgetl import Predictor

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
Job = tuple[bytes, asyncio.Transport]


class Protocol(asyncio.Protocol):
    """One connection, on which requests with a Content-Length come one after another."""

    def __init__(self, jobs: SimpleQueue[Job]) -> None:
        self._jobs = jobs
        self._got = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Hand a whole body to a thread."""
        self._got += data
        head, _, body = self._got.partition(b"\r\n\r\n")
        if len(body) >= int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 1):
            self._got = b""
            self._jobs.put((body, self._transport))


def work(predictor: Predictor, jobs: SimpleQueue[Job], loop: asyncio.AbstractEventLoop) -> None:
    """Answer what comes."""
    while True:
        body, transport = jobs.get()
        found = predictor.predict(body)
        told = json.dumps({"label": found.label, "score": found.score}).encode()
        loop.call_soon_threadsafe(transport.write, HEAD % len(told) + told)


async def main(bundle: str, port: int) -> None:
    """Answer until the end."""
    jobs: SimpleQueue[Job] = SimpleQueue()
    loop = asyncio.get_running_loop()
    with Predictor.open(bundle, threads=1) as predictor:
        for _ in range(os.cpu_count() or 1):
            Thread(target=work, args=(predictor, jobs, loop), daemon=True).start()
        server = await loop.create_server(lambda: Protocol(jobs), "127.0.0.1", port)
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(os.environ["PEER_BUNDLE"], int(sys.argv[1])))
