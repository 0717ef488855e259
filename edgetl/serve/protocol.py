"""uvicorn's HTTP protocol with what it leaves out: a time and a size that a request must arrive in, a limit of
connections, and a refusal that costs next to nothing when the queue is full."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from edgetl.serve.batcher import FULL
from edgetl.serve.replies import Reason, RefusedError

__all__ = ["Limits", "limited"]

# Of the request line and the headers.
MAX_HEAD_BYTES = 32 << 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a client may ask of a connection.

    `is_full` says of a path (as sent, query included) whether a request there would be refused for want of room, and
    `refused` hears of every refusal, with its status.
    """

    connections: int
    receive_seconds: float
    is_full: Callable[[bytes], bool]
    refused: Callable[[int, Reason], None]


class LimitedProtocol(HttpToolsProtocol):
    """One connection."""

    limits: ClassVar[Limits]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None
        self._receiving = True  # the first request is expected at once
        self._head_bytes = 0
        self._dropped = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a connection, or refuse one too many."""
        if len(self.connections) >= self.limits.connections:
            self.transport = transport
            self._end(RefusedError(503, "connections", "too many connections are open", ((b"retry-after", b"1"),)))
            return
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._unwatch()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on; a request that is not whole yet has until its deadline."""
        self._head_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing() or not self._receiving:
            self._unwatch()
        else:
            if self._head_bytes > MAX_HEAD_BYTES:
                self._end(RefusedError(431, "too_large", f"the headers are longer than {MAX_HEAD_BYTES} bytes"))
            self._watch()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Answer a client that has sent all and still reads, then close; one that has not is gone."""
        if self._receiving or self.cycle is None or self.cycle.response_complete:
            return False
        self.cycle.keep_alive = False  # the latest request's, which is answered last
        return True

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request."""
        self._end(RefusedError(400, "malformed", "this is no HTTP request"))

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._receiving, self._dropped = True, False
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Begin to answer a request, or refuse it before its body is read where there is no room for it."""
        self._head_bytes = -(1 << 62)
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self.limits.is_full(self.url):
            self._drop(RefusedError(503, "queue_full", FULL, ((b"retry-after", b"1"),)))
            return
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        if not self._dropped:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request."""
        self._receiving, self._head_bytes = False, 0
        if not self._dropped:
            super().on_message_complete()
        elif self.transport.is_closing():
            return
        else:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _drop(self, refusal: RefusedError) -> None:
        """Refuse a request before its body is read; the body is passed over."""
        self._dropped = True
        # A client that waits to be told to go on may not send the body, and what comes next would be taken for it.
        close = self.expect_100_continue or not self.parser.should_keep_alive()
        self.limits.refused(refusal.status, refusal.reason)
        self.transport.write(_rendered(refusal, close))
        if close:
            self.transport.close()

    def _watch(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.limits.receive_seconds, self._give_up)

    def _unwatch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        within = f"{self.limits.receive_seconds:g} s"
        self._end(RefusedError(408, "too_slow", f"the request did not arrive within {within}"))

    def _end(self, refusal: RefusedError) -> None:
        """Refuse what the connection has asked, if nothing was answered yet, and close it."""
        self.limits.refused(refusal.status, refusal.reason)
        if not self.pipeline and (
            self.cycle is None or not self.cycle.response_started or self.cycle.response_complete
        ):
            self.transport.write(_rendered(refusal, close=True))
        self.transport.close()


def limited(limits: Limits) -> type[LimitedProtocol]:
    """Return the protocol with these limits, for uvicorn's `http`."""
    return type("Limited", (LimitedProtocol,), {"limits": limits})


def _rendered(refusal: RefusedError, close: bool) -> bytes:
    """Return a refusal as it goes over the wire."""
    reply = refusal.reply
    headers = [
        (b"content-type", reply.media_type),
        (b"content-length", str(len(reply.body)).encode()),
        *reply.headers,
        *([(b"connection", b"close")] if close else []),
    ]
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
    return STATUS_LINE[reply.status] + lines + b"\r\n" + reply.body
