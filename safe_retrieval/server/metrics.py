"""Prometheus metrics. Labels are routes, lanes, statuses and codes: a fixed few, and nothing that was sent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from safe_retrieval._extras import require
from safe_retrieval.server.batching import Batcher, Pass

_REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_BATCH_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The figures of one server, in a registry of its own: two servers in a process do not add up.

    Raises:
        MissingExtraError: prometheus-client is not installed.
    """

    def __init__(self) -> None:
        self._client: Any = require("prometheus_client", extra="server", purpose="the server's metrics")
        self._registry = registry = self._client.CollectorRegistry()
        self._client.ProcessCollector(registry=registry)
        counter, histogram, gauge = self._client.Counter, self._client.Histogram, self._client.Gauge

        def named(kind: Any, name: str, meaning: str, labels: Iterable[str] = (), **more: Any) -> Any:
            return kind(f"safe_retrieval_{name}", meaning, tuple(labels), registry=registry, **more)

        self._requests = named(counter, "requests", "Requests answered.", ("route", "status"))
        self._seconds = named(
            histogram, "request_seconds", "Time to answer a request.", ("route",), buckets=_REQUEST_SECONDS
        )
        self._in_progress = named(gauge, "requests_in_progress", "Requests being answered.")
        self._problems = named(counter, "problems", "Requests answered with an error, by its code.", ("code",))
        self._texts = named(counter, "texts", "Texts encoded.", ("lane",))
        self._batch = named(histogram, "batch_texts", "Texts in a forward pass.", ("lane",), buckets=_BATCH_TEXTS)
        self._passes = named(histogram, "batch_seconds", "Time of a forward pass.", ("lane",), buckets=_REQUEST_SECONDS)
        self._waiting = named(gauge, "waiting_texts", "Texts that no forward pass has taken yet.", ("lane",))
        self._judged = named(counter, "judged_texts", "Texts given a refusal verdict.", ("flagged",))

    @property
    def content_type(self) -> str:
        """Of :meth:`render`."""
        return str(self._client.CONTENT_TYPE_LATEST)

    def render(self) -> bytes:
        """All figures in Prometheus' text format."""
        return bytes(self._client.generate_latest(self._registry))

    def watch(self, lanes: Iterable[Batcher]) -> None:
        """Show how many texts wait in each lane, read when somebody asks."""
        for lane in lanes:
            self._waiting.labels(lane.name).set_function(lambda lane=lane: lane.waiting)

    def began(self) -> None:
        """A request came in."""
        self._in_progress.inc()

    def ended(self, route: str, status: int, seconds: float, code: str | None) -> None:
        """A request was answered, or given up."""
        self._in_progress.dec()
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
        if code is not None:
            self._problems.labels(code).inc()

    def passed(self, done: Pass) -> None:
        """A forward pass ended."""
        self._texts.labels(done.lane).inc(done.texts)
        self._batch.labels(done.lane).observe(done.texts)
        self._passes.labels(done.lane).observe(done.seconds)

    def judged(self, *, flagged: int, passed: int) -> None:
        """Texts were held against the gate's threshold."""
        self._judged.labels("true").inc(flagged)
        self._judged.labels("false").inc(passed)
