"""What Prometheus is told: requests, readings, jobs, the queue, and the version that is served."""

import math
import time
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

STATES = ("queued", "running", "succeeded", "skipped", "failed", "cancelled")
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class ApiMetrics:
    """The numbers of one application."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "maestro_sensor_requests", "Requests answered", ("method", "route", "status"), registry=self._registry
        )
        self.seconds = Histogram(
            "maestro_sensor_request_seconds",
            "Seconds from a request's head to the end of its answer",
            ("method", "route"),
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self.in_progress = Gauge(
            "maestro_sensor_requests_in_progress", "Requests that are being answered", registry=self._registry
        )
        self._readings = Counter(
            "maestro_sensor_readings",
            "Readings that were sent, by what became of them",
            ("outcome",),
            registry=self._registry,
        )
        self._jobs = Gauge("maestro_training_jobs", "Training jobs by their state", ("state",), registry=self._registry)
        self._waiting = Gauge(
            "maestro_training_jobs_waiting", "Training jobs that wait for a worker", registry=self._registry
        )
        self._version = Gauge(
            "maestro_sensor_model_version", "Version of the model that is served; 0: none", registry=self._registry
        )
        for outcome in ("accepted", "duplicate", "refused"):
            self._readings.labels(outcome)
        self.jobs(None)
        self.waiting(None)

    def readings(self, *, accepted: int = 0, duplicate: int = 0, refused: int = 0) -> None:
        for outcome, count in (("accepted", accepted), ("duplicate", duplicate), ("refused", refused)):
            self._readings.labels(outcome).inc(count)

    def jobs(self, counts: Mapping[str, int] | None) -> None:
        """None: not known, which is NaN and not nothing."""
        for state in STATES:
            self._jobs.labels(state).set(math.nan if counts is None else counts.get(state, 0))

    def waiting(self, count: int | None) -> None:
        """None: not known; an autoscaler leaves the number of workers alone then."""
        self._waiting.set(math.nan if count is None else count)

    def version(self, version: str | None) -> None:
        self._version.set(int(version or 0))

    def text(self) -> bytes:
        return generate_latest(self._registry)


class Measured:
    """Counts and times the requests of an application, by the route and not by the path, of which there is no end."""

    def __init__(self, app: ASGIApp, metrics: ApiMetrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            with self._metrics.in_progress.track_inprogress():
                await self._app(scope, receive, watched)
        finally:
            method = scope["method"] if scope["method"] in _METHODS else "other"
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(method, route, status).inc()
            self._metrics.seconds.labels(method, route).observe(time.perf_counter() - begun)
