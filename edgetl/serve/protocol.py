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

__all__ = ["ENDED", "Limits", "limited"]

# Of the request line and the headers.
MAX_HEAD_BYTES = 32 << 10
# Key of a request's scope: it was refused, counted and cut off here, and what answers it has nothing to add.
ENDED = "edgetl.ended"


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
    """One connection.

    A message is what arrives between two requests' ends; its cycle, uvicorn's word, is the request that answers it.
    """

    limits: ClassVar[Limits]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None
        self._abort: asyncio.TimerHandle | None = None
        self._receiving = True  # the first request is expected at once
        self._headed = False  # the message's head is whole
        self._dropped = False  # the message was refused when its head was whole
        self._completed = False  # a message was completed by what was received last
        self._ended = False  # nothing more is read
        self._idle_bytes = 0  # that brought neither a whole head nor a part of a body

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
        if self._abort is not None:
            self._abort.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on; a request that is not whole yet has until its deadline."""
        if self._ended:
            return
        self._idle_bytes += len(data)
        self._completed = False
        super().data_received(data)
        if self._ended or self.transport.is_closing():
            self._unwatch()
        elif self._idle_bytes > MAX_HEAD_BYTES:
            self._end(RefusedError(431, "too_large", f"the headers are longer than {MAX_HEAD_BYTES} bytes"))
        elif self._receiving or not self._completed:
            self._watch()
        elif self._is_idle and self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def eof_received(self) -> bool:  # type: ignore[override]
        """Answer a client that has sent all and still reads, then close; one that has not, or over TLS, is gone."""
        if self._receiving or self._is_idle or self.transport.get_extra_info("sslcontext") is not None:
            return False
        self.cycle.keep_alive = False  # the latest request's, which is answered last
        return True

    def pause_writing(self) -> None:
        """Give a client that does not read as long as one that does not send."""
        super().pause_writing()
        self._abort_later()

    def resume_writing(self) -> None:
        """Go on."""
        super().resume_writing()
        if self._abort is not None and not self.transport.is_closing():
            self._abort.cancel()
            self._abort = None

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection on which nothing more was asked."""
        super().timeout_keep_alive_handler()
        self._abort_later()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request."""
        self._end(RefusedError(400, "malformed", "this is no HTTP request"))

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._receiving, self._headed, self._dropped = True, False, False
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Begin to answer a request, or refuse it before its body is read where there is no room for it."""
        self._idle_bytes, self._headed = 0, True
        if self._ended or self.transport.is_closing():
            self._dropped = True
        elif self._is_idle and self.parser.get_method() == b"POST" and self.limits.is_full(self.url):
            self._drop(RefusedError(503, "queue_full", FULL, ((b"retry-after", b"1"),)))
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        self._idle_bytes = 0
        if not self._dropped:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request."""
        dropped = self._dropped
        self._receiving, self._headed, self._dropped, self._completed, self._idle_bytes = False, False, False, True, 0
        self._unwatch()
        if not dropped:
            super().on_message_complete()

    @property
    def _is_idle(self) -> bool:
        """Whether every request is answered."""
        return self.cycle is None or self.cycle.response_complete

    def _drop(self, refusal: RefusedError) -> None:
        """Refuse a request before its body is read; the body is passed over."""
        self._dropped = True
        # A client that waits to be told to go on may not send the body, and what comes next would be taken for it.
        close = self.expect_100_continue or not self.parser.should_keep_alive()
        self.limits.refused(refusal.status, refusal.reason)
        self.transport.write(_rendered(refusal, close))
        if close:
            self._close()

    def _watch(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.limits.receive_seconds, self._give_up)

    def _unwatch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if self.pipeline:  # uvicorn reads no more until what was asked before is answered
            self._watch()
            return
        within = f"{self.limits.receive_seconds:g} s"
        self._end(RefusedError(408, "too_slow", f"the request did not arrive within {within}"))

    def _end(self, refusal: RefusedError) -> None:
        """Read no more, and refuse the message unless it was answered; what was asked before it is answered first."""
        self._ended = True
        self._unwatch()
        if not self._headed:
            self.limits.refused(refusal.status, refusal.reason)
            if not self._is_idle:
                self.cycle.keep_alive = False
                return
            self.transport.write(_rendered(refusal, close=True))
        elif not self._dropped and not self._is_idle and not self.pipeline:
            self.limits.refused(refusal.status, refusal.reason)
            scope: dict[str, Any] = self.cycle.scope  # type: ignore[assignment]
            scope[ENDED] = True
            if not self.cycle.response_started:
                self.transport.write(_rendered(refusal, close=True))
        self._close()

    def _close(self) -> None:
        self.transport.close()
        self._abort_later()

    def _abort_later(self) -> None:
        """Let go of a connection after a while, whether or not its client has read what it was sent."""
        if self._abort is None:
            self._abort = self.loop.call_later(self.limits.receive_seconds, self.transport.abort)


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
