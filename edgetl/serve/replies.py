"""What is answered over HTTP: a reply, or a refusal with its status."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal, get_args

from edgetl.errors import EdgetlError

__all__ = ["FAILURE", "JSON", "REASONS", "Headers", "Reason", "RefusedError", "Reply", "json_reply"]

Headers = tuple[tuple[bytes, bytes], ...]
Reason = Literal[
    "queue_full", "expired", "connections", "too_slow", "too_large", "malformed", "unreadable", "unauthorized",
    "unknown", "hung_up", "device",
]  # fmt: skip
REASONS: tuple[Reason, ...] = get_args(Reason)
JSON = b"application/json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """A status, and a body of a media type."""

    status: int = 200
    body: bytes = b""
    media_type: bytes = JSON
    headers: Headers = ()


class RefusedError(EdgetlError):
    """A request that gets no answer: why, in a word for the metrics and a sentence for the client."""

    def __init__(self, status: int, reason: Reason, message: str, headers: Headers = ()) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.headers = headers

    @property
    def reply(self) -> Reply:
        """What the client gets: the error object of the Open Inference Protocol."""
        return json_reply({"error": str(self)}, self.status, self.headers)


def json_reply(content: Any, status: int = 200, headers: Headers = ()) -> Reply:
    """Return a reply that holds a JSON value."""
    return Reply(status=status, body=json.dumps(content, separators=(",", ":")).encode(), headers=headers)


FAILURE = json_reply({"error": "an error of the server's own; its log says which"}, 500)
