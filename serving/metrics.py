"""What the service counts, in Prometheus's text form."""
from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Counters of one service, in a registry of their own: a process may hold several services."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        own = {"registry": self.registry, "namespace": "facezoo"}
        self.requests = Counter("requests", "Number of answered requests.", ("route", "status"),
                                **own)
        self.seconds = Histogram("request_seconds", "Seconds from header to answer.",
                                 ("route",), buckets=SECONDS, **own)
        self.stages = Histogram("stage_seconds",
                                "Seconds per image and stage: find, restore, paste.",
                                ("stage",), buckets=SECONDS, **own)
        self.batches = Histogram("batch_faces", "Number of faces per batch.", ("model",),
                                 buckets=(1, 2, 4, 8, 16, 32, 64), **own)
        self.faces = Counter("faces", "Number of restored faces.", ("model",), **own)
        self.queue = Gauge("queue_depth", "Number of requests that run or wait.", **own)
        self.uploading = Gauge("upload_bytes", "Bytes received of requests in memory.", **own)

    def text(self) -> bytes:
        """All of them, as GET /metrics answers."""
        return generate_latest(self.registry)
