"""MLflow's scoring server with its predictions counted and timed: what uvicorn runs in a pod of the model server."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mlops.stores.tracking import scoring_application

if TYPE_CHECKING:
    from starlette.responses import JSONResponse
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

METRICS, PREDICT = "/metrics", "/invocations"
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)  # seconds


def application() -> ASGIApp:
    """The application of the model that the environment names, which is loaded: a broken one never serves."""
    app = scoring_application()
    app.add_exception_handler(RecursionError, _too_deep)
    return Measured(app)


async def _too_deep(*_: object) -> JSONResponse:
    from starlette.responses import JSONResponse

    return JSONResponse({"error_code": "BAD_REQUEST", "message": "the JSON is nested too deeply"}, 400)


class Measured:
    """Counts and times requests for predictions, and shows the numbers at /metrics. Probes count for nothing."""

    def __init__(self, app: ASGIApp) -> None:
        from prometheus_client import CollectorRegistry, Counter, Histogram

        self._app, self._registry = app, CollectorRegistry()
        self._requests = Counter(
            "maestro_model_server_requests", "Requests for predictions", ("status",), registry=self._registry
        )
        self._seconds = Histogram(
            "maestro_model_server_request_seconds",
            "Seconds from a request's head to the end of its answer",
            buckets=_BUCKETS,
            registry=self._registry,
        )
        for status in ("200", "500"):  # a rate needs the number from before the first error
            self._requests.labels(status)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path")
        if path == METRICS:
            await self._show(send)
        elif path == PREDICT:
            await self._measure(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _measure(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun, status = time.perf_counter(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            self._requests.labels(str(status)).inc()
            self._seconds.observe(time.perf_counter() - begun)

    async def _show(self, send: Send) -> None:
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        headers = [(b"content-type", CONTENT_TYPE_LATEST.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": generate_latest(self._registry)})
