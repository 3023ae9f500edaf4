"""The sensor trainer's API against its own OpenAPI document: whatever that allows, and what it does not."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from mlops.sensor_trainer.model.scoring import ClusterModel
from tests.conftest import eventually, free_ports
from tests.servers import PASSWORD, Redis
from tests.unit.sensor_api import COLUMNS, TOKEN, FakeModel, application_of, sensor_settings
from tests.unit.sensor_servers import migrated_database

# Not among them: positive_data_acceptance. A time in the future, a second training and a job that there is not are
# refused although the document cannot say so.
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    ignored_auth,
]


@pytest.fixture(scope="module")
def redis(run_folder: Path) -> Iterator[Redis]:
    with Redis(run_folder) as server:
        yield server


@pytest.fixture(scope="module")
def document(postgresql: str, mlflow_server: str, redis: Redis) -> Iterator[schemathesis.BaseSchema]:
    there = sensor_settings(
        database_url=migrated_database(postgresql),
        redis_port=str(redis.port),
        redis_password=PASSWORD,
        mlflow_tracking_uri=mlflow_server,
    )
    (port,) = free_ports(1)
    healthy = np.array([True, False])
    centres = np.array([np.zeros(len(COLUMNS)), np.ones(len(COLUMNS))])
    model = ClusterModel(COLUMNS, centres[0], centres[1], centres, healthy, ~healthy, threshold=1.0)
    with application_of(there, FakeModel(model=model)) as app:
        server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        try:
            eventually(lambda: server.started)
            yield schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/openapi.json")
        finally:
            server.should_exit = True
            thread.join()


OPERATIONS = [
    *(("/readings", "GET"), ("/readings", "POST"), ("/predict", "POST"), ("/train", "POST")),
    *(("/status/{job_id}", "GET"), ("/jobs/{job_id}/cancel", "POST")),
    *(("/health", "GET"), ("/ready", "GET"), ("/metrics", "GET")),
]


def test_all_operations_of_the_document_are_tried_here(document):
    assert sorted(OPERATIONS) == sorted(
        (found.ok().path, found.ok().method.upper()) for found in document.get_all_operations()
    )


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_an_operation_does_what_its_document_says_and_does_not_fail(document, path, method, mode):
    operation = document[path][method]
    if mode is GenerationMode.NEGATIVE and path in ("/health", "/ready", "/metrics"):
        pytest.skip("has nothing that could be wrong")

    @settings(suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: schemathesis.Case) -> None:
        case.call_and_validate(headers={"Authorization": f"Bearer {TOKEN}"}, checks=CHECKS)

    ask()
