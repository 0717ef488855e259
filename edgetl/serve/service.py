"""What answers a request, apart from how it came: reads what was asked, lets a model answer, says what went wrong."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from edgetl import __version__
from edgetl.errors import EdgetlError
from edgetl.runtime import softmax
from edgetl.serve import oip
from edgetl.serve.batcher import Answered, Job, Read
from edgetl.serve.metrics import Metrics
from edgetl.serve.models import Model, Models
from edgetl.serve.photos import fit_photos, read_photos, write_predictions
from edgetl.serve.replies import RefusedError, Reply, json_reply
from edgetl.serve.settings import ServeSettings

__all__ = ["Receive", "Scope", "Service"]

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
TOP = 5
# What is packed is not unpacked for strangers; photos are packed already.
PLAIN = {b"", b"identity"}
MOST_FIELDS, MOST_DIGITS = 16, 12
CARD = "README.md"
WATCH_SECONDS = 1.0
LOG = logging.getLogger("edgetl.serve")
EXTENSIONS = ("binary_tensor_data", "classification", "model_repository")


class Service:
    """The models and their figures; its methods run on the event loop, what computes on the models' threads."""

    def __init__(self, settings: ServeSettings) -> None:
        self.settings = settings
        self.models = Models(settings)
        self.metrics = Metrics()
        self.draining = False

    @property
    def is_ready(self) -> bool:
        """Whether requests are welcome."""
        return not self.draining and self.models.is_ready

    def is_full(self, target: bytes) -> bool:
        """Say whether a request for this path, as sent, would be refused for want of room."""
        path, _, query = target.partition(b"?")
        if path == b"/predict":
            if b"model=" in query:  # refused when its body is there
                return False
            name = self.models.default
        elif path.startswith(b"/v2/models/") and path.endswith(b"/infer"):
            name = path.split(b"/")[3].decode("ascii", "replace")
        else:
            return False
        return self.models.is_full(name)

    async def predict(self, scope: Scope, receive: Receive) -> Reply:
        """Return the labels of the photos in a request's body, one photo as it is or several as multipart/form-data.

        Raises:
            RefusedError: the request cannot be answered, or the client hung up.
        """
        top, name = _read_query(scope["query_string"], self.models.default)
        self.models.get(name)
        media_type = _header(scope, b"content-type")
        body = await self._read_body(scope, receive)
        model = self.models.get(name)
        how = model.bundle.manifest.preprocess
        return await self._answer(
            model,
            partial(read_photos, body, media_type, how, self.settings.max_pixels),
            partial(write_predictions, model, top),
        )

    async def infer(self, scope: Scope, receive: Receive, name: str, version: str | None = None) -> Reply:
        """Return the response to an inference request of the Open Inference Protocol; raises as `predict` does."""
        self.models.get(name, version)
        length = _header(scope, oip.HEADER_LENGTH)
        if length and not (length.isdigit() and len(length) <= MOST_DIGITS):
            raise RefusedError(400, "malformed", "Inference-Header-Content-Length must be a number")
        body = await self._read_body(scope, receive)
        model = self.models.get(name, version)
        # What was read says what is to be written.
        asked: list[oip.InferRequest] = []

        def read() -> Read:
            image, logits = model.artifact.input, model.artifact.output
            request = oip.read_request(body, int(length) if length else None, image, (logits.name, oip.SCORES))
            asked.append(request)
            if request.images is not None:
                return Read(images=request.images)
            return fit_photos(request.photos, model.bundle.manifest.preprocess, self.settings.max_pixels)

        def write(answered: Answered) -> Reply:
            outputs = {model.artifact.output.name: answered.logits, oip.SCORES: softmax(answered.logits)}
            return oip.write_response(asked[0], model.name, model.version, outputs, model.bundle.manifest.labels)

        return await self._answer(model, read, write)

    async def load(self, name: str) -> Model:
        """Return a model that was loaded again; what was wrong with it is logged too, and the one before goes on.

        Raises:
            EdgetlError: as `Models.load`.
        """
        try:
            model = await self.models.load(name)
        except EdgetlError as error:
            LOG.error("model %s was not loaded: %s", name, error)
            raise
        LOG.info("model %s is at version %s", name, model.version)
        return model

    async def watch(self) -> None:
        """Load models again whose folders are replaced, until cancelled."""
        seen = {name: _stamp(folder) for name, folder in self.settings.bundles.items()}
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            for name, folder in self.settings.bundles.items():
                stamp = await asyncio.to_thread(_stamp, folder)
                if stamp is not None and stamp != seen[name]:
                    seen[name] = stamp
                    try:
                        await self.load(name)
                    except EdgetlError:  # logged; what is still being copied changes again
                        continue
                    except Exception:
                        LOG.exception("model %s was not loaded", name)

    def health(self) -> Reply:
        """Return whether requests are welcome, and which models something else answers for than their bundle's own."""
        degraded = [model.name for model in self.models if model.predictor.session.degraded]
        told = {"ready": self.is_ready, **({"degraded": degraded} if degraded else {})}
        return json_reply(told, 200 if self.is_ready else 503)

    def server_metadata(self) -> Reply:
        """Return what the server is."""
        return json_reply({"name": "edgetl", "version": __version__, "extensions": EXTENSIONS})

    def model_metadata(self, name: str, version: str | None = None) -> Reply:
        """Return what a model reads and gives.

        Raises:
            RefusedError: there is none of that name and version.
        """
        model = self.models.get(name, version)
        image, logits = model.artifact.input, model.artifact.output
        scores = logits.model_copy(update={"name": oip.SCORES})
        return json_reply(
            {
                "name": model.name,
                "versions": [model.version],
                "platform": f"edgetl_{model.artifact.engine}",
                "inputs": [oip.describe_tensor(image)],
                "outputs": [oip.describe_tensor(each) for each in (logits, scores)],
            }
        )

    def card(self, name: str) -> Reply:
        """Return a model's card, in Markdown; empty where its bundle holds none.

        Raises:
            RefusedError: there is no model of that name.
        """
        bundle = self.models.get(name).bundle
        text = bundle.read(CARD) if CARD in bundle.manifest.files else b""
        return Reply(body=text, media_type=b"text/markdown; charset=utf-8")

    def index(self) -> Reply:
        """Return every model that can be loaded, and whether it is; a reason says what answers in its place."""
        told = {name: {"name": name, "state": "UNAVAILABLE", "reason": "not loaded"} for name in self.models.names}
        for model in self.models:
            reason = model.predictor.session.degraded or ""
            told[model.name] = {"name": model.name, "version": model.version, "state": "READY", "reason": reason}
        return json_reply(list(told.values()))

    async def _answer(self, model: Model, read: Callable[[], Read], write: Callable[[Answered], Reply]) -> Reply:
        def written(answered: Answered) -> Reply:
            self.metrics.answer(answered)
            return write(answered)

        # A body that took its time to arrive has not waited here yet.
        arrived = time.monotonic()
        return await model.batcher.submit(
            Job(
                read=read,
                write=written,
                arrived=arrived,
                deadline=arrived + self.settings.deadline_ms / 1000,
                done=asyncio.get_running_loop().create_future(),
            )
        )

    async def _read_body(self, scope: Scope, receive: Receive) -> bytes:
        coding = _header(scope, b"content-encoding").lower()
        if coding not in PLAIN:
            raise RefusedError(415, "malformed", "bodies are taken as they are, without a Content-Encoding")
        most = self.settings.max_bytes
        told = _header(scope, b"content-length")
        if told.isdigit() and int(told) > most:
            raise _too_large(most)
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RefusedError(400, "hung_up", "the client closed the connection before it had sent all")
            part = message.get("body", b"")
            size += len(part)
            if size > most:
                raise _too_large(most)
            parts.append(part)
            if not message.get("more_body", False):
                return parts[0] if len(parts) == 1 else b"".join(parts)


def _stamp(folder: Path) -> frozenset[tuple[str, int, int]] | None:
    """Return what changes when a bundle or a part of it is replaced; None while there is none."""
    try:
        with os.scandir(folder) as entries:
            told = {entry.name: entry.stat() for entry in entries}
    except OSError:
        return None
    if "manifest.json" not in told:
        return None
    return frozenset((name, status.st_ino, status.st_mtime_ns) for name, status in told.items())


def _header(scope: Scope, wanted: bytes) -> bytes:
    """Return a header's value; empty where it was not sent."""
    return next((value for name, value in scope["headers"] if name == wanted), b"")


def _read_query(query: bytes, default: str) -> tuple[int, str]:
    """Return how many labels are asked for, and of which model."""
    if not query:
        return TOP, default
    try:
        asked = parse_qs(query.decode("ascii", "replace"), max_num_fields=MOST_FIELDS)
    except ValueError:
        raise RefusedError(400, "malformed", f"the query has more than {MOST_FIELDS} fields") from None
    unknown = sorted(asked.keys() - {"top", "model"})
    if unknown:
        raise RefusedError(400, "malformed", f"query {unknown[0][:64]!r} is not known. Known: top, model")
    top = asked.get("top", [str(TOP)])[-1]
    if not (top.isascii() and top.isdigit() and 1 <= len(top) <= 6 and int(top) >= 1):
        raise RefusedError(400, "malformed", f"top must be a whole number from 1 on, found {top[:16]!r}")
    return int(top), asked.get("model", [default])[-1]


def _too_large(most: int) -> RefusedError:
    return RefusedError(413, "too_large", f"the body is larger than {most} bytes", ((b"connection", b"close"),))
