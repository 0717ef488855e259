"""The outermost layer of the server above the protocol: who may ask, what is counted and logged, how it ends."""

from __future__ import annotations

import hmac
import itertools
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from edgetl.serve.pages import PAGES
from edgetl.serve.protocol import ENDED
from edgetl.serve.replies import FAILURE, RefusedError, Reply
from edgetl.serve.service import Receive, Scope, Service

__all__ = ["OPEN", "Gate"]

Send = Callable[[Mapping[str, Any]], Awaitable[None]]
App = Callable[[Any, Any, Any], Awaitable[None]]
Fast = Callable[[Scope, Receive], Awaitable[Reply]]
# What tells only whether the server lives, and the page, which holds nothing and asks for the token itself.
OPEN = frozenset({"/v2/health/live", "/v2/health/ready", *PAGES})
REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
FAILED = 400
SERVER_FAILED = 500
LOG = logging.getLogger("edgetl.serve")


class Gate:
    """An ASGI application around another.

    Args:
        service: what is counted, and whether it is draining.
        app: answers what `fast` does not.
        fast: (method, path) -> what answers without the way through `app`, which takes longer than a small network.
        token: what clients must send as `Authorization: Bearer TOKEN`; None lets everybody ask.
    """

    def __init__(
        self, service: Service, app: App, fast: Mapping[tuple[str, str], Fast], token: bytes | None = None
    ) -> None:
        self._service = service
        self._app = app
        self._fast = fast
        self._expected = None if token is None else b"Bearer " + token
        self._log_all = service.settings.access_log
        self._prefix = secrets.token_hex(4).encode()
        self._counter = itertools.count(1)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request, whatever comes."""
        if scope["type"] != "http":
            return
        start = time.monotonic()
        request_id = self._id_of(scope)
        status, said = 0, ""

        async def tracked(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], (b"x-request-id", request_id)]}
            await send(message)

        try:
            try:
                self._check_token(scope)
                fast = self._fast.get((scope["method"], scope["path"]))
                if fast is None:
                    await self._app(scope, receive, tracked)
                    return
                reply = await fast(scope, receive)
            except RefusedError as refusal:
                if ENDED not in scope:
                    self._service.metrics.refuse(refusal.reason)
                reply, said = refusal.reply, str(refusal)
            except Exception as error:
                LOG.exception("request %s failed", request_id.decode())
                if status:  # said already, or too late to say
                    return
                reply, said = FAILURE, repr(error)
            status = reply.status
            await send_reply(send, reply, request_id)
        finally:
            seconds = time.monotonic() - start
            ended = ENDED in scope  # told by the protocol
            if status and not ended:
                self._service.metrics.count(status, seconds)
            if (self._log_all or status >= FAILED) and not ended:
                self._say(scope, request_id, status, seconds, said)

    def _check_token(self, scope: Scope) -> None:
        if self._expected is None or scope["path"] in OPEN:
            return
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        if not hmac.compare_digest(given, self._expected):
            raise RefusedError(
                401,
                "unauthorized",
                "a token is needed: Authorization: Bearer TOKEN",
                ((b"www-authenticate", b"Bearer"),),
            )

    def _id_of(self, scope: Scope) -> bytes:
        """Return the client's id for a request, or one of our own."""
        given: bytes = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        return given if given and REQUEST_ID.fullmatch(given) else b"%s-%x" % (self._prefix, next(self._counter))

    def _say(self, scope: Scope, request_id: bytes, status: int, seconds: float, said: str) -> None:
        told = {
            "id": request_id.decode(),
            "method": scope["method"],
            "path": scope["path"][:256],
            "status": status,
            "ms": round(1000 * seconds, 3),
            **({"error": said[:512]} if said else {}),
        }
        LOG.log(logging.ERROR if status >= SERVER_FAILED else logging.INFO, "request", extra={"told": told})


async def send_reply(send: Send, reply: Reply, request_id: bytes) -> None:
    """Send a reply as ASGI messages."""
    headers = [
        (b"content-type", reply.media_type),
        (b"content-length", str(len(reply.body)).encode()),
        (b"x-request-id", request_id),
        *reply.headers,
    ]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})
