"""What Prometheus is told: requests, images, batches, queues. A registry of its own for each service."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The counters of one service."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self.requests = Counter("humanpref_requests", "Requests answered.", ("route", "status"), registry=self.registry)
        self.seconds = Histogram(
            "humanpref_request_seconds", "From head to answer.", ("route",), buckets=SECONDS, registry=self.registry
        )
        self.refused = Counter("humanpref_refused", "Requests refused, by code.", ("code",), registry=self.registry)
        self.abandoned = Counter("humanpref_abandoned", "Requests whose client went away.", registry=self.registry)
        self.images = Counter("humanpref_images", "Images, by outcome.", ("model", "outcome"), registry=self.registry)
        self.batch = Histogram(
            "humanpref_batch_images", "Images in a batch.", ("model",), buckets=IMAGES, registry=self.registry
        )
        self.batch_seconds = Histogram(
            "humanpref_batch_seconds", "Of the model for a batch.", ("model",), buckets=SECONDS, registry=self.registry
        )
        self.wait_seconds = Histogram(
            "humanpref_batch_wait_seconds",
            "Prepared and waiting, the oldest of a batch.",
            ("model",),
            buckets=SECONDS,
            registry=self.registry,
        )

        self._answers: dict[tuple[str, int | None], tuple[Counter, Histogram]] = {}

    def answered(self, route: str, status: int | None, seconds: float) -> None:
        """Count an answer. The counters of a route and status are looked up once: that takes longer than counting."""
        if (found := self._answers.get((route, status))) is None:
            found = self.requests.labels(route, str(status)), self.seconds.labels(route)
            self._answers[route, status] = found
        found[0].inc()
        found[1].observe(seconds)

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Show a number that is asked for when it is read."""
        Gauge(f"humanpref_{name}", text, registry=self.registry).set_function(value)

    def observe_batch(self, model: str) -> Callable[[int, float, float], None]:
        """Return what is told of every batch of a model."""
        size, seconds, wait = (h.labels(model) for h in (self.batch, self.batch_seconds, self.wait_seconds))

        def observe(images: int, took: float, waited: float) -> None:
            size.observe(images)
            seconds.observe(took)
            wait.observe(max(0.0, waited))

        return observe

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)
