"""What Prometheus reads: how many, how long, how full, and what of it went wrong."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.process_collector import ProcessCollector

from edgetl.serve.batcher import Answered
from edgetl.serve.models import Model, Models
from edgetl.serve.replies import REASONS, Reason, Reply

__all__ = ["Metrics"]

# Seconds; an INT8 network answers in a millisecond or less.
BUCKETS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
)  # fmt: skip
# What a request may end with; anything else counts as `other`, so that no client can add a series.
CODES = (200, 400, 401, 403, 404, 405, 408, 411, 413, 415, 422, 431, 500, 503, 504)


class Metrics:
    """The server's figures, in a registry of their own."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(f"edgetl_{name}_seconds", text, buckets=BUCKETS, registry=registry)

        self.request = histogram("request", "From a request's head to the end of its answer")
        self.queue = histogram("queue", "From acceptance to a free thread")
        self.preprocess = histogram("preprocess", "Decoding and fitting the photos of a request")
        self.inference = histogram("inference", "The engine's part of a request")
        self.batch = Histogram(
            "edgetl_batch_size", "Images run at once", buckets=(1, 2, 4, 8, 16, 32, 64), registry=registry
        )
        requests = Counter("edgetl_requests", "Requests by HTTP status", ["code"], registry=registry)
        refused = Counter("edgetl_refused", "Requests that got no answer, by reason", ["reason"], registry=registry)
        self._requests = {code: requests.labels(str(code)) for code in CODES}
        self._other = requests.labels("other")
        self._refused = {reason: refused.labels(reason) for reason in REASONS}
        self._degraded = Gauge(
            "edgetl_degraded",
            "1 where something else answers than the bundle is for",
            ["model"],
            registry=registry,
        )
        self._models = Info("edgetl_model", "The models that answer", ["model"], registry=registry)

    def count(self, code: int, seconds: float | None = None) -> None:
        """Count a request that ended with a status, after so many seconds unless it was refused before it was read."""
        self._requests.get(code, self._other).inc()
        if seconds is not None:
            self.request.observe(seconds)

    def refuse(self, reason: Reason) -> None:
        """Count a request that got no answer."""
        self._refused[reason].inc()

    def answer(self, answered: Answered) -> None:
        """Count what the engine answered for a request."""
        self.queue.observe(answered.queue_seconds)
        self.preprocess.observe(answered.read.decode_seconds + answered.read.preprocess_seconds)
        self.inference.observe(answered.inference_seconds)
        self.batch.observe(answered.batch)

    def write(self, models: Models) -> Reply:
        """Return the figures in Prometheus's text format."""
        self._degraded.clear()
        self._models.clear()
        for model in models:
            self._degraded.labels(model.name).set(float(model.predictor.session.degraded is not None))
            self._models.labels(model.name).info(_described(model))
        return Reply(body=generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST.encode())


def _described(model: Model) -> dict[str, str]:
    manifest, artifact = model.bundle.manifest, model.predictor.session.artifact
    return {
        "version": model.version,
        "target": manifest.target,
        "engine": artifact.engine,
        "device": artifact.execution.device,
        "precision": artifact.precision,
    }
