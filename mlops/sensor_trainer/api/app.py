"""The sensor trainer's REST API: readings in, training jobs, predictions. PostgreSQL holds the truth."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar
from uuid import UUID

import numpy as np
import uvicorn
from fastapi import FastAPI, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse

from mlops import datasets
from mlops.config import CertificateSettings, SensorApiSettings
from mlops.result import Failure
from mlops.sensor_trainer.api import docs, errors, schemas
from mlops.sensor_trainer.api.access import OPEN, Access
from mlops.sensor_trainer.api.blocking import BlockingCalls
from mlops.sensor_trainer.api.errors import Malformed, Problem, ServiceUnavailable, documented
from mlops.sensor_trainer.api.limits import Limits
from mlops.sensor_trainer.api.metrics import ApiMetrics, Measured
from mlops.sensor_trainer.api.periodic import PeriodicTask
from mlops.sensor_trainer.api.protocol import HeadInTime
from mlops.sensor_trainer.api.readiness import OK, PATIENCE, Readiness
from mlops.sensor_trainer.model.served import MODEL, ServedModel
from mlops.sensor_trainer.store import database
from mlops.sensor_trainer.store.jobs import AnotherRuns, Job, Jobs, KeyReused
from mlops.sensor_trainer.store.queue import JobQueue, hand_over
from mlops.sensor_trainer.store.readings import Readings
from mlops.stores.tracking import Tracking, health_check

if TYPE_CHECKING:
    from psycopg_pool import ConnectionPool

CONNECTIONS = 8  # to PostgreSQL, and so many calls of it at once
_SWEEP = 5.0  # seconds between two looks for jobs that nobody runs
_REFRESH = 5.0  # seconds until a new version is served
_FORGET = 3600.0  # seconds between two removals of old readings
_FIRST_MODEL = 10.0  # seconds that a starting server waits for its model
_GRACE = 20  # seconds that requests under way have when the server is told to stop
_VALUES_BESIDE_COLUMNS = 64  # of a reading: its fields, and the commas and brackets that a key may have

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Services:
    """What the API stands on."""

    settings: SensorApiSettings
    pool: "ConnectionPool"
    readings: Readings
    jobs: Jobs
    queue: JobQueue
    model: ServedModel

    @classmethod
    def of(cls, settings: SensorApiSettings) -> Self:
        """Opens them; asks none of them yet, so that a server starts without the others."""
        pool = database.open_pool(settings.database, size=CONNECTIONS)
        model = ServedModel(Tracking(settings.mlflow), MODEL)
        return cls(settings, pool, Readings(pool), Jobs(pool), JobQueue(settings.redis), model)

    @property
    def columns(self) -> list[str]:
        """What a reading has values of, in the order in which they are stored."""
        return [column.name for column in datasets.get(self.settings.dataset).features]


def serve(settings: SensorApiSettings, host: str, port: int) -> None:
    """Serves until it is told to stop."""
    services, tls = Services.of(settings), CertificateSettings.from_environment()
    try:
        uvicorn.run(
            application(services),
            host=host,
            port=port,
            ssl_certfile=tls.certificate,
            ssl_keyfile=tls.key,
            http=HeadInTime,
            access_log=False,
            log_level="warning",
            server_header=False,
            timeout_graceful_shutdown=_GRACE,
        )
    finally:
        services.pool.close()


def application(services: Services) -> FastAPI:
    """The API. Between its start and its end it also hands jobs over, looks for new models and removes old readings."""
    settings, metrics, calls = services.settings, ApiMetrics(), BlockingCalls(CONNECTIONS)
    sweep = PeriodicTask("the hand-over of jobs", _SWEEP, lambda: _sweep(services, metrics))
    refresh = PeriodicTask("the look for a new model", _REFRESH, lambda: _refresh(services, metrics))
    forget = PeriodicTask("the removal of old readings", _FORGET, lambda: _forget(services))
    readiness = Readiness(
        {
            "redis": services.queue.ping,
            "postgresql": lambda: database.check(services.pool, PATIENCE),
            "mlflow": health_check(settings.mlflow, PATIENCE),
        }
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        for repeated in (sweep, refresh, forget):
            repeated.start()
        await asyncio.to_thread(refresh.wait_for_first, _FIRST_MODEL)
        yield
        for repeated in (sweep, refresh, forget):
            await asyncio.to_thread(repeated.stop, 1.0)
        calls.close()
        readiness.close()

    app = FastAPI(
        title="Sensor trainer",
        description=f"Readings of sensors ({settings.sensors}), and a model that tells failing ones.",
        version="1",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    errors.install(app)
    _add_readings(app, services, metrics, calls)
    _add_jobs(app, services, calls, sweep.wake)
    _add_state(app, readiness, metrics)
    app.openapi = _document_once(app)  # type: ignore[method-assign]  # FastAPI's way to extend its document
    app.add_middleware(Limits, values=schemas.BATCH * (len(services.columns) + _VALUES_BESIDE_COLUMNS))
    app.add_middleware(Access, token=settings.token)
    app.add_middleware(Measured, metrics=metrics)  # the last one added is the first one asked
    return app


def _add_readings(app: FastAPI, services: Services, metrics: ApiMetrics, calls: BlockingCalls) -> None:
    """Readings in, and predictions for readings."""
    columns = services.columns
    batch_type, questions_type = schemas.bodies(columns, services.settings.sensors.split(","))

    @app.post("/readings", responses=documented(400, 401, 408, 413, 422, 503))
    async def ingest(batch: batch_type) -> schemas.Ingested:  # type: ignore[valid-type]  # made of the columns
        """Takes a batch of readings in, each key once."""
        readings = schemas.new_readings(batch)
        faults = schemas.contradictions(readings)
        if faults:
            metrics.readings(refused=len(readings))
            raise Malformed(faults)
        accepted, duplicates = await calls(services.readings.ingest, readings)
        metrics.readings(accepted=accepted, duplicate=duplicates)
        return schemas.Ingested(accepted=accepted, duplicates=duplicates)

    @app.get("/readings", responses=documented(401, 422, 503))
    async def kept(page: Annotated[schemas.Page, Query()]) -> schemas.KeptReadings:
        """Readings that were taken in, a page at a time; those of the last seconds come later."""
        newest = await calls(services.readings.newest_id)
        found = await calls(services.readings.after, page.after, len(columns), schemas.PAGE)
        return schemas.KeptReadings(
            dataset=services.settings.dataset,
            columns=columns,
            newest_id=newest,
            readings=[schemas.KeptReading(**each._asdict()) for each in found],
        )

    @app.post("/predict", responses=documented(400, 401, 408, 413, 422, 503))
    async def predict(questions: questions_type) -> schemas.Predictions:  # type: ignore[valid-type]  # as above
        """Scores readings by the model that is served: cluster, distance, and whether the sensor is failing."""
        served = services.model.current
        if served is None:
            raise _no_model("no version of it has the alias 'production'")
        if list(served.model.columns) != columns:
            raise _no_model(f"version {served.version} is of the columns {', '.join(served.model.columns)}")
        asked: schemas.Questions = questions
        scores = served.model.score(np.array([schemas.values_of(each) for each in asked.readings]))
        parts = (scores.cluster.tolist(), scores.distance.tolist(), scores.anomaly.tolist(), scores.failure.tolist())
        predictions = [
            schemas.Prediction(cluster=cluster, distance=distance, anomaly_score=anomaly, failure=failure)
            for cluster, distance, anomaly, failure in zip(*parts, strict=True)
        ]
        return schemas.Predictions(model_version=served.version, predictions=predictions)

    @app.exception_handler(RequestValidationError)
    async def refuse(request: Request, error: RequestValidationError) -> Response:
        sent = error.body.get("readings") if isinstance(error.body, Mapping) else None
        if request.url.path == "/readings" and isinstance(sent, list):
            metrics.readings(refused=len(sent))
        return await errors.of_validation(request, error)


def _add_jobs(app: FastAPI, services: Services, calls: BlockingCalls, wake: Callable[[], None]) -> None:
    """Training jobs. wake: hands them over at once; where Redis is away, the sweep does it later."""

    @app.post("/train", status_code=HTTPStatus.ACCEPTED, responses=documented(400, 401, 408, 409, 413, 422, 503))
    async def train(
        response: Response,
        idempotency_key: Annotated[
            str, Header(pattern=schemas.VISIBLE, description="the same key again is the same job")
        ],
        training: schemas.Training | None = None,
    ) -> schemas.JobStatus:
        """Asks for a training. One at a time; its state is at the address in the header Location."""
        request = (training or schemas.Training()).as_request()
        try:
            job, _ = await calls(services.jobs.submit, MODEL, idempotency_key, request)
        except KeyReused as error:
            raise _key_reused(error.job) from error
        except AnotherRuns as error:
            raise _another_runs(error.job) from error
        wake()
        response.headers["Location"] = f"/status/{job.id}"
        return schemas.JobStatus.of(job)

    @app.get("/status/{job_id}", responses=documented(401, 404, 422, 503))
    async def status(job_id: UUID) -> schemas.JobStatus:
        """How far a job is, and what came of it."""
        return schemas.JobStatus.of(_found(job_id, await calls(services.jobs.get, job_id)))

    @app.post("/jobs/{job_id}/cancel", status_code=202, responses=documented(401, 404, 409, 422, 503))
    async def cancel(job_id: UUID) -> schemas.JobStatus:
        """Ends a job: at once where it waits, and soon where it runs."""
        job = _found(job_id, await calls(services.jobs.request_cancel, job_id))
        if job.state in ("succeeded", "skipped", "failed"):
            raise _has_ended(job)
        try:
            await calls(services.queue.stop, job_id)
        except (Failure, ServiceUnavailable) as error:
            log.info("job %s stays in the queue, where its worker will find it cancelled: %s", job_id, error)
        return schemas.JobStatus.of(job)


def _add_state(app: FastAPI, readiness: Readiness, metrics: ApiMetrics) -> None:
    """What the kubelet, Prometheus and people ask, without a token."""

    @app.get("/health")
    async def health() -> schemas.Alive:
        """Whether the process answers, whatever else is away."""
        return schemas.Alive()

    @app.get("/ready", responses={200: {"model": schemas.Ready}, **documented(503)})
    async def ready() -> Response:
        """Which of Redis, PostgreSQL and MLflow is away, and why."""
        found: dict[str, Any] = await readiness.ask()
        unavailable = [name for name, outcome in found.items() if outcome != OK]
        if unavailable:
            detail = "; ".join(found[name] for name in unavailable)
            status, title = HTTPStatus.SERVICE_UNAVAILABLE, f"Unavailable: {', '.join(unavailable)}"
            raise Problem(status, "not-ready", title, detail, **found)
        return JSONResponse(found)

    text = {"text/plain": {"schema": {"type": "string"}}}

    @app.get("/metrics", response_class=Response, responses={200: {"description": "Prometheus' text", "content": text}})
    async def numbers() -> Response:
        """Requests, readings, jobs and the served version, for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    docs.install(app)


def _sweep(services: Services, metrics: ApiMetrics) -> None:
    """Hands over the jobs that nobody runs, and tells how many there are."""
    try:
        hand_over(services.jobs, services.queue)
    except Failure as failure:
        log.warning("jobs wait in PostgreSQL until they can be handed over: %s", failure)
    metrics.jobs(_known(services.jobs.counts))
    metrics.waiting(_known(services.queue.waiting))


def _refresh(services: Services, metrics: ApiMetrics) -> None:
    services.model.refresh()
    metrics.version(services.model.version)


def _forget(services: Services) -> None:
    if days := int(services.settings.retention_days):
        try:
            readings, jobs = services.readings.forget(days), services.jobs.forget(days)
        except Failure as failure:
            log.warning("old readings and jobs stay until they can be removed: %s", failure)
            return
        if readings:
            log.info("removed %d readings that were more than %d days older than the newest", readings, days)
        if jobs:
            log.info("removed %d jobs that ended more than %d days ago", jobs, days)


def _known(ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except Failure:
        return None


def _document_once(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """FastAPI's OpenAPI document with the schema of problems, and with the token where it is asked for."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            errors.describe(made)
            made["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            for path, operations in made["paths"].items():
                for operation in operations.values() if path not in OPEN else ():
                    operation["security"] = [{"token": []}]
            app.openapi_schema = made
        return app.openapi_schema

    return document


def _found(job_id: UUID, job: Job | None) -> Job:
    if job is None:
        detail = f"there is no job {job_id}: POST /train answers with the job_id of one"
        raise Problem(HTTPStatus.NOT_FOUND, "no-job", "There is no such job", detail)
    return job


def _key_reused(job: Job) -> Problem:
    return Problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "key-reused",
        "The Idempotency-Key belongs to another request",
        f"job {job.id} has this Idempotency-Key and another body: take another key, or send that body again",
        job_id=str(job.id),
    )


def _another_runs(job: Job) -> Problem:
    return Problem(
        HTTPStatus.CONFLICT,
        "another-training",
        "Another training of the model is under way",
        f"job {job.id} is {job.state}: wait for its end, which /status/{job.id} tells, or POST /jobs/{job.id}/cancel",
        job_id=str(job.id),
    )


def _has_ended(job: Job) -> Problem:
    return Problem(
        HTTPStatus.CONFLICT,
        "has-ended",
        "The job has ended",
        f"job {job.id} has {job.state} already: there is nothing to cancel",
        job_id=str(job.id),
        state=job.state,
    )


def _no_model(cause: str) -> Problem:
    return Problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "no-model",
        "No model is served yet",
        f"model {MODEL!r} cannot be asked, {cause}: POST /train, or run the DAG train_clustering_model",
        headers={"Retry-After": "60"},
    )
