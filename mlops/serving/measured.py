"""MLflow's scoring server, asked by ids as well, with its predictions counted, timed and logged.

It is what uvicorn runs in a pod of a model server.
"""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any

from mlops.config import RedisSettings, ServedModelSettings
from mlops.serving import answers, by_ids
from mlops.serving.by_ids import ByIds, Service
from mlops.serving.prediction_log import PredictionLog
from mlops.stores.object_store import predictions_bucket
from mlops.stores.online_features import OnlineFeatures
from mlops.stores.tracking import scoring_application

if TYPE_CHECKING:
    import pandas as pd
    from prometheus_client import CollectorRegistry
    from starlette.responses import JSONResponse
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from mlops.training.families import Prediction

METRICS = "/metrics"
MEASURED = {"/invocations", by_ids.PATH}
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)  # seconds


def application() -> ASGIApp:
    """The application of the model that the environment names, which is loaded: a broken one never serves."""
    from prometheus_client import CollectorRegistry

    settings, registry = ServedModelSettings.from_environment(), CollectorRegistry()
    app = scoring_application()
    app.add_exception_handler(RecursionError, _too_deep)
    model = answers.loaded()
    service = _service(model.feature_service)
    log = _prediction_log(settings, model, service, registry)
    online = None
    if service is not None and settings.online_features == "true":
        online = OnlineFeatures(RedisSettings.from_environment(), service.views)
    app.add_route(by_ids.PATH, ByIds(model, service, online, log).__call__, methods=["POST"])
    return Measured(app, model.name, registry, log)


def _service(name: str | None) -> Service | None:
    from mlops.features.repository import service_named

    found = service_named(name) if name else None
    return None if found is None else Service(found)


def _prediction_log(
    settings: ServedModelSettings, model: answers.ServedModel, service: Service | None, registry: CollectorRegistry
) -> PredictionLog | None:
    """The log of predictions where values want one; those that MLflow's server makes are told to it."""
    share = float(settings.log_share)
    if share <= 0:
        return None
    keys = service.keys if service else []
    log = PredictionLog(predictions_bucket(), model.name, model.version, keys, share, registry)

    def tell(data: pd.DataFrame, found: Prediction) -> None:
        known: list[dict[str, Any]] = [{} for _ in range(len(data))]
        for key in keys:
            if key in data:
                for row, value in zip(known, data[key].tolist(), strict=True):
                    row[key] = value
        ids = [uuid.uuid4().hex for _ in range(len(data))]
        log.add(ids, known, found.values.tolist(), by_ids.scores(found).tolist())

    model.told = tell
    log.start()
    return log


async def _too_deep(*_: object) -> JSONResponse:
    from starlette.responses import JSONResponse

    return JSONResponse({"error_code": "BAD_REQUEST", "message": "the JSON is nested too deeply"}, 400)


class Measured:
    """Counts and times requests for predictions, and shows the numbers at /metrics. Probes count for nothing.

    log: what is written to its end before the process ends.
    """

    def __init__(self, app: ASGIApp, model: str, registry: CollectorRegistry, log: PredictionLog | None = None) -> None:
        from prometheus_client import Counter, Histogram

        self._app, self._model, self._registry, self._log = app, model, registry, log
        self._requests = Counter(
            "maestro_model_server_requests", "Requests for predictions", ("model", "status"), registry=registry
        )
        self._seconds = Histogram(
            "maestro_model_server_request_seconds",
            "Seconds from a request's head to the end of its answer",
            ("model",),
            buckets=_BUCKETS,
            registry=registry,
        )
        for status in ("200", "500"):  # a rate needs the number from before the first error
            self._requests.labels(model, status)
        self._seconds.labels(model)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path")
        if path == METRICS:
            await self._show(send)
        elif path in MEASURED:
            await self._measure(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._app(scope, receive, self._ending(send))
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
            self._requests.labels(self._model, str(status)).inc()
            self._seconds.labels(self._model).observe(time.perf_counter() - begun)

    def _ending(self, send: Send) -> Send:
        """Has the log end after the last request, which is when uvicorn is told of the end, and before the process."""
        from starlette.concurrency import run_in_threadpool

        async def ended(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown.") and self._log is not None:
                await run_in_threadpool(self._log.close)
            await send(message)

        return ended

    async def _show(self, send: Send) -> None:
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        headers = [(b"content-type", CONTENT_TYPE_LATEST.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": generate_latest(self._registry)})
