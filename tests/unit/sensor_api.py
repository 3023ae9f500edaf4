"""The sensor trainer's API over real servers, and the requests that its tests send."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from fastapi import FastAPI
from fastapi.testclient import TestClient

from mlops.config import DatabaseSettings, FromEnvironment, MLflowSettings, RedisSettings, SensorApiSettings
from mlops.sensor_trainer.api.app import Services, application
from mlops.sensor_trainer.model.scoring import ReadingScores
from mlops.sensor_trainer.model.served import Served
from mlops.sensor_trainer.store.database import open_pool
from mlops.sensor_trainer.store.jobs import Jobs
from mlops.sensor_trainer.store.queue import JobQueue
from mlops.sensor_trainer.store.readings import Readings
from tests.servers import MLflow

TOKEN = "a-token_of~the+Secret/="
NOWHERE = "http://127.0.0.1:9"
COLUMNS = tuple(f"f{number}" for number in range(1, 10))


@dataclass
class FakeModel:
    """A served model, and the version that is served, whose scores tell which values they are of."""

    version: str | None = "3"
    columns: tuple[str, ...] = COLUMNS
    model: Any = None

    @property
    def current(self) -> Any:
        return Served(self.version, self.model or self) if self.version else None

    def refresh(self) -> bool:
        return False

    def score(self, values: np.ndarray) -> ReadingScores:
        first = values[:, 0]
        return ReadingScores(first.astype(int), first / 2, first * 2, first > 50)


def sensor_settings(
    database_url: str = "postgresql://sensors@127.0.0.1:9/sensors",
    redis_port: str = "9",
    redis_password: str = "none",
    mlflow_tracking_uri: str = NOWHERE,
    **changes: str,
) -> SensorApiSettings:
    """Settings whose servers are all away, but for those that are named."""
    redis = RedisSettings("127.0.0.1", redis_port, "queue", redis_password)
    mlflow = MLflowSettings(mlflow_tracking_uri, *MLflow.reader.values())
    stores = (DatabaseSettings(database_url), redis, mlflow)
    return SensorApiSettings(*stores, **{"token": TOKEN, "sensors": "shuttle,other", **changes})


def told(settings: FromEnvironment) -> dict[str, str]:
    """The environment that the settings would be read from."""
    found: dict[str, str] = {}
    for entry in fields(settings):
        value = getattr(settings, entry.name)
        if isinstance(value, FromEnvironment):
            found |= told(value)
        elif value is not None:
            found[entry.metadata["key"]] = value
    return found


@contextmanager
def application_of(settings: SensorApiSettings, model: Any = None) -> Iterator[FastAPI]:
    """An API that has not begun yet."""
    pool = open_pool(settings.database)
    try:
        yield application(
            Services(settings, pool, Readings(pool), Jobs(pool), JobQueue(settings.redis), model or FakeModel())
        )
    finally:
        pool.close()


@contextmanager
def client_of(settings: SensorApiSettings, model: Any = None) -> Iterator[TestClient]:
    """A client with the token of an API, which runs with all it does beside its requests."""
    headers = {"Authorization": f"Bearer {settings.token}"}
    with (
        application_of(settings, model) as app,
        TestClient(app, headers=headers, raise_server_exceptions=False) as client,
    ):
        yield client


def reading(**changes: Any) -> dict[str, Any]:
    """A reading as a client sends it, with a key of its own."""
    values = {name: float(place) for place, name in enumerate(COLUMNS, 1)}
    found = {"key": uuid.uuid4().hex, "sensor": "shuttle", "time": "2026-01-31T12:00:00Z", "values": values}
    return {**found, "failure": None, **changes}


def question(first: float = 1.0) -> dict[str, Any]:
    values = reading()["values"]
    return {"sensor": "shuttle", "values": {**values, "f1": first}}


def soon(**ahead: float) -> str:
    return (datetime.now(UTC) + timedelta(**ahead)).isoformat()
