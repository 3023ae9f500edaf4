import asyncio
import json
import re
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from starlette.routing import Mount, Route

from mlops.sensor_trainer.api import app, schemas
from mlops.sensor_trainer.api import blocking as of_calls
from mlops.sensor_trainer.api.blocking import BlockingCalls
from mlops.sensor_trainer.api.errors import ServiceUnavailable
from mlops.sensor_trainer.api.periodic import PeriodicTask
from mlops.sensor_trainer.api.readiness import OK, Readiness
from mlops.sensor_trainer.store import database
from mlops.sensor_trainer.store.queue import JobQueue
from tests.conftest import eventually
from tests.servers import PASSWORD, Redis
from tests.unit.sensor_api import (
    NOWHERE,
    TOKEN,
    FakeModel,
    client_of,
    question,
    reading,
    sensor_settings,
    soon,
)
from tests.unit.sensor_servers import migrated_database, new_role


@pytest.fixture(scope="module")
def redis_server(run_folder: Path) -> Iterator[Redis]:
    with Redis(run_folder) as server:
        yield server


@pytest.fixture(scope="module")
def database_url(postgresql: str) -> str:
    return migrated_database(postgresql)


@pytest.fixture(scope="module")
def servers(database_url: str, redis_server: Redis) -> dict[str, str]:
    """Settings that name servers which are there."""
    redis = {"redis_port": str(redis_server.port), "redis_password": PASSWORD}
    return {"database_url": database_url, **redis}


@pytest.fixture(scope="module")
def shared_client(servers: dict[str, str]) -> Iterator[TestClient]:
    with client_of(sensor_settings(**servers)) as found:
        yield found


@pytest.fixture
def client(shared_client: TestClient, database_url: str, redis_server: Redis) -> TestClient:
    """A client of an API without readings and jobs."""
    with psycopg.connect(database_url) as connection:
        connection.execute("truncate sensors.readings, sensors.training_jobs")
    redis_server.client.flushall()
    return shared_client


def problem_of(answer: Any, status: int) -> dict[str, Any]:
    """The answer's problem, which must be complete and of the status."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert {"type", "title", "detail", "instance"} <= problem.keys()
    return dict(problem)


def numbers(client: TestClient) -> dict[tuple[str, ...], float]:
    """By name and label values."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {(each.name, *each.labels.values()): each.value for family in families for each in family.samples}


def rows(database_url: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(database_url) as connection:
        return connection.execute(query).fetchall()


def send(client: TestClient, *readings: dict[str, Any]) -> Any:
    # NaN is no JSON, and Python's own client sends it all the same.
    return client.post(
        "/readings", content=json.dumps({"readings": readings}), headers={"Content-Type": "application/json"}
    )


# Readings


def test_readings_are_stored_as_they_were_sent(client, database_url):
    backwards = dict(reversed(reading()["values"].items()))
    sent = reading(key="shuttle/1", time="2026-01-31T13:00:00+01:00", values=backwards, failure=True)
    assert send(client, sent, reading(sensor="other")).json() == {"accepted": 2, "duplicates": 0}
    stored = rows(
        database_url,
        "select sensor, time at time zone 'UTC', \"values\", failure from sensors.readings where key = 'shuttle/1'",
    )
    assert [(sensor, str(when), values, failure) for sensor, when, values, failure in stored] == [
        ("shuttle", "2026-01-31 12:00:00", [float(number) for number in range(1, 10)], True)
    ]


def test_readings_are_handed_out_in_pages_in_the_order_in_which_they_were_stored(client, database_url, monkeypatch):
    monkeypatch.setattr(schemas, "PAGE", 2)
    send(client, reading(key="1", time="2026-01-31T12:02:00Z", failure=True), reading(key="2"))
    send(client, reading(key="3", sensor="other", time="2026-01-31T12:01:00Z"))
    assert client.get("/readings").json()["readings"] == [], "a batch with lower ids may yet be under way"
    with psycopg.connect(database_url) as connection:
        connection.execute("update sensors.readings set received = received - interval '21 seconds'")
        connection.execute("update sensors.readings set \"values\" = '{1}' where key = '3'")  # of an earlier data set
    send(client, reading(key="4", time="2026-01-31T12:03:00Z"))
    first = client.get("/readings").json()
    assert (first["dataset"], first["columns"]) == ("shuttle", [f"f{number}" for number in range(1, 10)])
    assert [(each["time"], each["failure"]) for each in first["readings"]] == [
        ("2026-01-31T12:00:00Z", None),
        ("2026-01-31T12:02:00Z", True),
    ]
    assert first["readings"][0]["values"] == [float(number) for number in range(1, 10)]
    last = first["readings"][-1]["id"]
    assert client.get(f"/readings?after={last}").json()["readings"] == []
    assert first["newest_id"] > last
    assert client.get("/readings?after=-1").status_code == 422
    assert client.get(f"/readings?after={2**63 - 1}").json()["readings"] == []


def test_old_readings_are_removed_beside_the_requests(client, servers, database_url):
    send(client, reading(key="old", time="2026-01-01T12:00:00Z"), reading(key="new", time="2026-01-31T12:00:00Z"))
    kept = "select key from sensors.readings order by time"
    with client_of(sensor_settings(**servers, retention_days="0")):
        pass
    assert rows(database_url, kept) == [("old",), ("new",)]
    with client_of(sensor_settings(**servers, retention_days="29")):
        eventually(lambda: rows(database_url, kept) == [("new",)])


def test_a_batch_that_is_sent_again_changes_nothing(client, database_url):
    batch = [reading(), reading(), reading()]
    assert send(client, *batch).json() == {"accepted": 3, "duplicates": 0}
    assert send(client, *batch, reading()).json() == {"accepted": 1, "duplicates": 3}
    assert rows(database_url, "select count(*) from sensors.readings") == [(4,)]


def test_the_same_reading_twice_in_a_batch_is_one(client):
    twice = reading()
    assert send(client, twice, twice).json() == {"accepted": 1, "duplicates": 1}


def test_a_key_with_two_contents_in_a_batch_is_refused(client):
    first = reading(key="k")
    problem = problem_of(send(client, reading(), first, {**first, "failure": True}), 422)
    assert problem["errors"] == [{"index": 2, "field": "key", "reason": "reading 1 has this key and another content"}]


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in reading()["values"].items() if key != name}


@pytest.mark.parametrize(
    ("changes", "field", "reason"),
    [
        ({"values": {**reading()["values"], "f3": float("nan")}}, "values.f3", "finite"),
        ({"values": {**reading()["values"], "f3": float("inf")}}, "values.f3", "finite"),
        ({"values": {**reading()["values"], "f3": 10**400}}, "values.f3", ""),
        ({"values": {**reading()["values"], "f3": "12"}}, "values.f3", "number"),
        ({"values": {**reading()["values"], "f3": True}}, "values.f3", "number"),
        ({"values": {**reading()["values"], "f3": None}}, "values.f3", "number"),
        ({"values": without("f9")}, "values.f9", "is missing"),
        ({"values": {**reading()["values"], "f10": 1}}, "values.f10", "is unknown"),
        ({"values": {**reading()["values"], "\ud800": 1}}, "values", ""),
        ({"values": {**reading()["values"], "x" * 10_000: 1}}, f"values.{'x' * 100}", "is unknown"),
        ({"values": [1, 2, 3]}, "values", ""),
        ({"sensor": "nobody"}, "sensor", "'shuttle' or 'other'"),
        ({"sensor": ["shuttle"]}, "sensor", "'shuttle' or 'other'"),
        ({"time": "2026-01-31T12:00:00"}, "time", "zone"),
        ({"time": 1_769_860_800}, "time", "zone"),
        ({"time": "1769860800"}, "time", "zone"),
        ({"time": "2026-02-30T12:00:00Z"}, "time", ""),
        ({"time": "0001-01-01T00:00:00+05:00"}, "time", "year"),
        ({"time": "1969-12-31T23:59:59Z"}, "time", "year"),
        ({"time": "2100-01-01T00:00:00Z"}, "time", "in the future"),
        ({"time": "9999-12-31T23:59:59-12:00"}, "time", ""),
        ({"key": ""}, "key", ""),
        ({"key": "a\0b"}, "key", ""),
        ({"key": "\ud800"}, "key", ""),
        ({"key": "k" * 256}, "key", ""),
        ({"failure": 1}, "failure", ""),
        ({"machine": "shuttle"}, "machine", "is unknown"),
    ],
)
def test_one_malformed_reading_refuses_its_whole_batch_and_is_named(client, database_url, changes, field, reason):
    problem = problem_of(send(client, reading(), reading(**changes), reading()), 422)
    assert problem["type"] == "urn:maestro:sensor-trainer:malformed"
    assert [(fault["index"], fault["field"]) for fault in problem["errors"]] == [(1, field)]
    assert reason in problem["errors"][0]["reason"]
    assert rows(database_url, "select count(*) from sensors.readings") == [(0,)]


def test_a_clock_that_is_a_little_ahead_is_no_fault(client):
    assert send(client, reading(time=soon(minutes=4))).json()["accepted"] == 1
    problem_of(send(client, reading(time=soon(minutes=6))), 422)


def test_of_many_faults_twenty_are_listed(client):
    problem = problem_of(send(client, *(reading(sensor=f"s{number}") for number in range(30))), 422)
    assert [fault["index"] for fault in problem["errors"]] == list(range(20))
    assert problem["detail"].startswith("30 faults")


@pytest.mark.parametrize("count", [0, 5_001])
def test_a_batch_has_one_to_five_thousand_readings(client, count):
    problem = problem_of(send(client, *([reading()] * count)), 422)
    assert problem["errors"][0]["field"] == "readings"


def test_the_largest_batch_is_taken(client):
    assert send(client, *(reading() for _ in range(5_000))).json() == {"accepted": 5_000, "duplicates": 0}


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"[" * 100_000, b"\xff\xfe", b"null", b"[]", b'{"readings": {}}', b'{"readings": [1]}'),
        *(b'{"readings": [' + b"9" * 5_000 + b"]}", b'{"\\ud800": 1}', b'{"readings": [NaN]}'),
    ],
)
def test_what_is_no_batch_is_a_problem_of_the_request(client, body):
    answer = client.post("/readings", content=body, headers={"Content-Type": "application/json"})
    problem_of(answer, 400 if answer.status_code == 400 else 422)


def test_another_media_type_than_json_is_refused(client):
    answer = client.post(
        "/readings", content=json.dumps({"readings": [reading()]}), headers={"Content-Type": "text/csv"}
    )
    problem_of(answer, 422)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda part: st.lists(part) | st.dictionaries(st.text(), part),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    body=JSON
    | st.fixed_dictionaries({"readings": st.lists(st.fixed_dictionaries({"key": JSON, "time": JSON, "values": JSON}))})
)
def test_no_json_makes_the_service_fail(shared_client, body):
    for path in ("/readings", "/predict", "/train"):
        headers = {"Content-Type": "application/json", "Idempotency-Key": uuid.uuid4().hex}
        answer = shared_client.post(path, content=json.dumps(body), headers=headers)
        assert answer.status_code in (202, 400, 409, 422), answer.text


# Access


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        TOKEN,
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}x",
        f"Basic {TOKEN}",
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/readings"), ("GET", "/status/4d9589a0-12ce-4416-96f8-097504637660"), ("GET", "/nowhere")],
)
def test_without_the_token_nothing_is_answered(client, method, path, header):
    headers = {} if header is None else {"Authorization": header}
    answer = TestClient(client.app).request(method, path, headers=headers)
    problem = problem_of(answer, 401)
    assert answer.headers["www-authenticate"].startswith("Bearer ")
    assert ('error="invalid_token"' in answer.headers["www-authenticate"]) == (header is not None), "as RFC 6750 has it"
    assert "sensorTrainer.existingSecret" in problem["detail"]
    assert TOKEN not in answer.text


def test_a_header_that_is_no_ascii_is_no_token(client):
    answer = TestClient(client.app).get("/nowhere", headers=[(b"authorization", b"Bearer \xff\xe4")])
    problem_of(answer, 401)


def test_the_scheme_may_be_written_in_any_case(client):
    assert TestClient(client.app).get("/nowhere", headers={"Authorization": f"bearer  {TOKEN}"}).status_code == 404


# What may be asked without the token; every other route needs it, one that is added as well.
OPEN = {("GET", path) for path in ("/health", "/ready", "/metrics", "/openapi.json", "/docs")}


def routes(app: FastAPI) -> list[tuple[str, str]]:
    """(method, path) of all that the application answers; of the mounted files one that is not the page's."""
    found = []
    for route in app.routes:
        if isinstance(route, Mount):
            found.append(("GET", f"{route.path}/oauth2-redirect.html"))
        else:
            assert isinstance(route, Route), "what else there is asks for the token too"
            found += [(method, route.path.format(job_id=uuid.uuid4())) for method in route.methods or () if method]
    return found


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}], ids=["without", "wrong"])
def test_each_route_but_those_of_state_and_documents_asks_for_the_token(shared_client, headers):
    stranger = TestClient(shared_client.app)
    asked = [route for route in routes(shared_client.app) if route[0] != "HEAD"]
    assert len(asked) > len(OPEN)
    answered = {route for route in asked if stranger.request(*route, headers=headers).status_code != 401}
    assert answered == OPEN


def test_no_way_to_write_a_path_or_a_method_opens_it(shared_client):
    stranger = TestClient(shared_client.app)
    for path in ("/predict/", "//predict", "/predict?x=/health", "/health/", "/docs/../predict", "/x"):
        for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"):
            assert stranger.request(method, path).status_code == 401, (method, path)


def test_state_and_documentation_are_open(client):
    stranger = TestClient(client.app)
    assert stranger.get("/health").json() == {"status": "alive"}
    assert {stranger.get(path).status_code for path in ("/metrics", "/openapi.json", "/docs")} == {200}
    assert stranger.get("/ready").status_code in (200, 503)


# Training jobs


def train(client: TestClient, key: str, body: dict[str, Any] | None = None) -> Any:
    return client.post("/train", headers={"Idempotency-Key": key}, **({} if body is None else {"json": body}))


def test_a_training_is_queued_and_can_be_followed(client):
    answer = train(client, "run-1", {"minimum_new_readings": 10})
    assert answer.status_code == 202
    job = answer.json()
    assert (job["state"], job["model"], job["attempt"], job["result"]) == ("queued", "sensor-clusters", 0, None)
    assert answer.headers["location"] == f"/status/{job['job_id']}"
    assert client.get(answer.headers["location"]).json() == job


def test_a_training_is_handed_over_at_once_and_taken_back_when_it_is_cancelled(client, servers, monkeypatch):
    monkeypatch.setattr(app, "_SWEEP", 3600.0)
    with client_of(sensor_settings(**servers)) as fresh:
        job_id = train(fresh, "run-1").json()["job_id"]
        eventually(lambda: "maestro_training_jobs_waiting 1.0" in fresh.get("/metrics").text)
        fresh.post(f"/jobs/{job_id}/cancel")
    assert JobQueue(sensor_settings(**servers).redis).waiting() == 0


def test_the_same_key_is_the_same_job(client):
    body = {"until": "2026-01-31T12:00:00Z"}
    first = train(client, "run-1", body).json()
    assert train(client, "run-1", body).json()["job_id"] == first["job_id"]
    # The same instant and the same job, written otherwise.
    assert train(client, "run-1", {"until": "2026-01-31T13:00:00+01:00"}).json()["job_id"] == first["job_id"]


def test_the_same_key_with_another_body_is_refused(client):
    first = train(client, "run-1", {"minimum_new_readings": 10}).json()
    problem = problem_of(train(client, "run-1", {"minimum_new_readings": 11}), 422)
    assert (problem["type"], problem["job_id"]) == ("urn:maestro:sensor-trainer:key-reused", first["job_id"])


def test_while_a_job_of_the_model_is_under_way_another_is_refused_with_its_id(client):
    first = train(client, "run-1").json()
    problem = problem_of(train(client, "run-2"), 409)
    assert problem["job_id"] == first["job_id"]
    assert f"/jobs/{first['job_id']}/cancel" in problem["detail"]


def test_many_who_ask_at_once_get_one_job(client, database_url):
    answers: list[Any] = []
    threads = [threading.Thread(target=lambda n=n: answers.append(train(client, f"run-{n % 2}"))) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} == {202, 409}
    assert len({answer.json()["job_id"] for answer in answers}) == 1
    assert rows(database_url, "select count(*) from sensors.training_jobs") == [(1,)]


@pytest.mark.parametrize("key", [None, "", " ", "a b", "ä", "k" * 256])
def test_a_training_needs_a_key_of_visible_ascii(client, key):
    headers = [] if key is None else [(b"idempotency-key", key.encode())]
    problem = problem_of(client.post("/train", json={}, headers=headers), 422)
    assert problem["errors"][0]["field"].lower() == "idempotency-key"


@pytest.mark.parametrize(
    "body",
    [
        *({"minimum_new_readings": number} for number in (-1, 1_000_000_001, "5")),
        *({"until": "now"}, {"model": "x"}, []),
    ],
)
def test_a_malformed_wish_is_refused(client, body):
    problem_of(train(client, "run-1", body), 422)


@pytest.mark.parametrize(("method", "path"), [("GET", "/status/{}"), ("POST", "/jobs/{}/cancel")])
def test_a_job_that_there_is_not_is_not_found(client, method, path):
    problem_of(client.request(method, path.format(uuid.uuid4())), 404)
    problem_of(client.request(method, path.format("1")), 422)


def test_a_cancelled_job_ends_and_leaves_the_way_free(client):
    job_id = train(client, "run-1").json()["job_id"]
    for _ in range(2):
        answer = client.post(f"/jobs/{job_id}/cancel")
        assert (answer.status_code, answer.json()["state"]) == (202, "cancelled")
    assert client.get(f"/status/{job_id}").json()["state"] == "cancelled"
    assert train(client, "run-2").status_code == 202


@pytest.mark.parametrize("state", ["succeeded", "skipped", "failed"])
def test_a_job_that_has_ended_cannot_be_cancelled(client, database_url, state):
    job_id = train(client, "run-1").json()["job_id"]
    with psycopg.connect(database_url) as connection:
        connection.execute("update sensors.training_jobs set state = %s, finished = now()", (state,))
    problem = problem_of(client.post(f"/jobs/{job_id}/cancel"), 409)
    assert problem["state"] == state


# Predictions


def test_predictions_come_in_the_order_of_the_questions(client):
    answer = client.post("/predict", json={"readings": [question(70), question(2)]})
    assert answer.json() == {
        "model_version": "3",
        "predictions": [
            {"cluster": 70, "distance": 35.0, "anomaly_score": 140.0, "failure": True},
            {"cluster": 2, "distance": 1.0, "anomaly_score": 4.0, "failure": False},
        ],
    }


@pytest.mark.parametrize(("count", "status"), [(0, 422), (1, 200), (1_000, 200), (1_001, 422)])
def test_one_to_a_thousand_readings_may_be_asked_about(client, count, status):
    assert client.post("/predict", json={"readings": [question()] * count}).status_code == status


def test_a_malformed_question_is_named(client):
    wrong = {"sensor": "shuttle", "values": without("f1")}
    problem = problem_of(client.post("/predict", json={"readings": [question(), wrong]}), 422)
    assert problem["errors"] == [{"index": 1, "field": "values.f1", "reason": "is missing"}]


def test_without_a_model_a_prediction_says_what_to_do():
    with client_of(sensor_settings(), FakeModel(None)) as client:
        problem = problem_of(client.post("/predict", json={"readings": [question()]}), 503)
        assert "train_clustering_model" in problem["detail"]


def test_a_server_that_starts_looks_for_its_model_before_it_answers():
    class Found(FakeModel):
        def refresh(self) -> bool:
            self.version = "4"
            return True

    with client_of(sensor_settings(), Found(None)) as client:
        assert client.post("/predict", json={"readings": [question()]}).json()["model_version"] == "4"


def test_a_model_of_other_columns_is_not_asked():
    with client_of(sensor_settings(), FakeModel(columns=("f1", "f2"))) as client:
        problem = problem_of(client.post("/predict", json={"readings": [question()]}), 503)
        assert "version 3 is of the columns f1, f2" in problem["detail"]


# Servers that are away


@pytest.fixture
def silent_port() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield str(server.getsockname()[1])


@pytest.mark.parametrize("way", ["refused", "silent"])
def test_without_postgresql_each_answer_names_it_in_time(servers, silent_port, way):
    port = {"refused": "9", "silent": silent_port}[way]
    changes = {**servers, "database_url": f"postgresql://sensors@127.0.0.1:{port}/sensors"}
    with client_of(sensor_settings(**changes)) as client:
        job_id = uuid.uuid4()
        calls: list[Callable[[], Any]] = [
            lambda: send(client, reading()),
            lambda: train(client, "run-1"),
            lambda: client.get(f"/status/{job_id}"),
            lambda: client.post(f"/jobs/{job_id}/cancel"),
        ]
        for call in calls:
            answer = call()
            problem = problem_of(answer, 503)
            assert (problem["service"], "PostgreSQL" in problem["detail"]) == ("postgresql", True)
            assert answer.headers["retry-after"] == "5"
        # What needs no PostgreSQL goes on.
        assert client.get("/health").status_code == 200
        assert client.post("/predict", json={"readings": [question()]}).status_code == 200


@pytest.mark.parametrize("way", ["refused", "silent"])
def test_without_redis_a_training_is_taken_and_handed_over_later(client, servers, silent_port, redis_server, way):
    port = {"refused": "9", "silent": silent_port}[way]
    with client_of(sensor_settings(**{**servers, "redis_port": port})) as alone:
        answer = train(alone, "run-1")
        assert (answer.status_code, answer.json()["state"]) == (202, "queued")
        assert alone.post(f"/jobs/{uuid.uuid4()}/cancel").status_code == 404
    # Another API, whose Redis is there.
    eventually(lambda: "maestro_training_jobs_waiting 1.0" in client.get("/metrics").text)


def test_a_queued_job_is_cancelled_without_redis(client, servers):
    with client_of(sensor_settings(**{**servers, "redis_port": "9"})) as alone:
        job_id = train(alone, "run-1").json()["job_id"]
        answer = alone.post(f"/jobs/{job_id}/cancel")
        assert (answer.status_code, answer.json()["state"]) == (202, "cancelled")


def test_a_role_without_rights_is_named_as_the_cause(servers, database_url, postgresql):
    outsider = new_role(postgresql)
    owner = database_url.rpartition("/")[2]
    url = database_url.replace(f"{owner}@", f"{outsider}@")
    with client_of(sensor_settings(**{**servers, "database_url": url})) as client:
        problem = problem_of(send(client, reading()), 503)
        assert "permission denied" in problem["detail"]
        assert outsider in problem["detail"]
        readiness_says(client, "permission denied", "postgresql")


# State


def readiness_says(client: TestClient, words: str, *of: str) -> None:
    """Waits for it: on a busy machine an answer of a server may come too late to be told."""

    def says() -> bool:
        problem = problem_of(client.get("/ready"), 503)
        return all(words in problem[each] for each in of)

    eventually(says)


def test_ready_says_which_server_is_away_and_why(servers, mlflow_uri):
    with client_of(sensor_settings(**servers, mlflow_tracking_uri=mlflow_uri)) as client:
        well = {"redis": "ok", "postgresql": "ok", "mlflow": "ok"}
        eventually(lambda: client.get("/ready").json() == well)  # a busy machine may need several tries
        eventually(lambda: client.get("/ready").status_code == 200)
    with client_of(sensor_settings(**servers)) as client:
        readiness_says(client, "ok", "redis", "postgresql")
        readiness_says(client, f"MLflow at {NOWHERE} refuses the connection", "mlflow")
    with client_of(sensor_settings(mlflow_tracking_uri=mlflow_uri)) as client:
        readiness_says(client, "ok", "mlflow")
        readiness_says(client, "Unavailable: redis, postgresql", "title")
        readiness_says(client, "refused", "redis", "postgresql")


def test_ready_does_not_wait_for_servers_that_are_silent(silent_port):
    url = f"postgresql://sensors@127.0.0.1:{silent_port}/sensors"
    address = f"http://127.0.0.1:{silent_port}"
    silent = sensor_settings(database_url=url, redis_port=silent_port, mlflow_tracking_uri=address)
    with client_of(silent) as client:
        for _ in range(3):
            problem_of(client.get("/ready"), 503)


def test_servers_are_asked_side_by_side():
    """One after the other, each would wait for the next one for ever."""
    together = threading.Barrier(3, timeout=240)

    async def scenario() -> None:
        readiness = Readiness(dict.fromkeys(("redis", "postgresql", "mlflow"), together.wait), limit=120)
        assert set((await readiness.ask()).values()) == {OK}
        readiness.close()

    asyncio.run(scenario())


def test_a_client_has_its_answer_within_ten_seconds_whoever_is_silent():
    assert database._WAIT < of_calls._PATIENCE < 10


def test_a_wrong_password_of_redis_is_not_told_as_its_absence(servers):
    with client_of(sensor_settings(**{**servers, "redis_password": "wrong"})) as client:
        readiness_says(client, "global.redis.existingSecret", "redis")


def test_metrics_count_readings_requests_and_jobs(servers, client):
    with client_of(sensor_settings(**servers)) as fresh:
        counts = {key: value for key, value in numbers(fresh).items() if key[0] == "maestro_sensor_readings_total"}
        assert counts == {("maestro_sensor_readings_total", of): 0 for of in ("accepted", "duplicate", "refused")}
        batch = [reading(), reading()]
        for sent in (batch, batch, [reading(sensor="nobody"), reading(), reading()]):
            send(fresh, *sent)
        same = reading()
        send(fresh, same, {**same, "failure": True})
        fresh.get("/nowhere")
        fresh.get("/somewhere")
        TestClient(fresh.app).get("/status/x")
        train(fresh, "run-1")
        eventually(lambda: numbers(fresh)["maestro_training_jobs_waiting",] == 1)
        found = numbers(fresh)

        assert found["maestro_sensor_readings_total", "accepted"] == 2
        assert found["maestro_sensor_readings_total", "duplicate"] == 2
        assert found["maestro_sensor_readings_total", "refused"] == 5
        assert found["maestro_sensor_requests_total", "POST", "/readings", "200"] == 2
        assert found["maestro_sensor_requests_total", "POST", "/readings", "422"] == 2
        assert found["maestro_sensor_requests_total", "GET", "other", "404"] == 2
        assert found["maestro_sensor_requests_total", "GET", "other", "401"] == 1
        assert found["maestro_sensor_request_seconds_count", "POST", "/readings"] == 4
        assert found["maestro_training_jobs", "queued"] == 1
        assert found["maestro_training_jobs", "running"] == 0
        assert found["maestro_sensor_model_version",] == 3


def test_what_is_not_known_is_no_number():
    with client_of(sensor_settings()) as client:
        assert "maestro_training_jobs_waiting NaN" in client.get("/metrics").text


# The rest of HTTP


def test_what_there_is_not_and_what_goes_otherwise_are_problems(client):
    assert problem_of(client.get("/nowhere"), 404)["instance"] == "/nowhere"
    problem_of(client.post("/readings/", json={}), 404)
    answer = client.get("/train")
    problem_of(answer, 405)
    assert answer.headers["allow"] == "POST"


def test_a_fault_of_the_service_is_a_problem_that_tells_nothing_of_it(servers):
    class Broken(FakeModel):
        def score(self, values):
            raise RuntimeError("the secret cause")

    with client_of(sensor_settings(**servers), Broken()) as client:
        series = ("maestro_sensor_requests_total", "POST", "/predict", "500")
        before = numbers(client).get(series, 0)
        answer = client.post("/predict", json={"readings": [question()]})
        problem_of(answer, 500)
        assert "secret" not in answer.text
        assert numbers(client)[series] == before + 1


def test_the_page_of_the_document_is_whole_without_the_internet(client):
    answer = client.get("/docs")
    page, policy = answer.text, answer.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "url: 'openapi.json'" in page
    asked = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(asked) == 3
    for file in asked:
        answer = TestClient(client.app, base_url="http://testserver").get(f"/{file}")
        assert (answer.status_code, len(answer.content) > 100) == (200, True), file
    assert "//" not in "".join(asked), "no file is another server's"


def test_the_document_names_the_columns_the_sensors_and_the_token(client):
    document = client.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    assert list(schemas["Values"]["properties"]) == [f"f{number}" for number in range(1, 10)]
    assert schemas["Reading"]["properties"]["sensor"]["enum"] == ["shuttle", "other"]
    assert document["paths"]["/readings"]["post"]["security"] == [{"token": []}]
    assert "security" not in document["paths"]["/ready"]["get"]
    assert "HTTPValidationError" not in schemas


def test_work_that_failed_is_tried_again():
    calls = []

    def work() -> None:
        calls.append(len(calls))
        if len(calls) < 3:
            raise RuntimeError

    repeated = PeriodicTask("work", 0.01, work)
    repeated.start()
    eventually(lambda: len(calls) > 3)
    repeated.stop(5)
    stopped_at = len(calls)
    repeated.wake()
    assert len(calls) == stopped_at


def test_work_that_is_asked_for_while_it_is_done_is_done_again_at_once():
    begun, go_on, calls = threading.Event(), threading.Event(), []

    def work() -> None:
        calls.append(len(calls))
        begun.set()
        go_on.wait(240)

    repeated = PeriodicTask("work", 3600.0, work)
    repeated.start()
    assert begun.wait(240)
    repeated.wake()
    go_on.set()
    eventually(lambda: len(calls) == 2)
    repeated.stop(5)


def test_a_call_that_takes_too_long_is_given_up_and_so_is_one_that_finds_no_place():
    go_on, calls = threading.Event(), []

    def work() -> None:
        calls.append(len(calls))
        go_on.wait(240)

    async def scenario() -> None:
        asked = BlockingCalls(1, patience=0.1)
        for _ in range(2):
            with pytest.raises(ServiceUnavailable, match="PostgreSQL did not answer within"):
                await asked(work)
        asked.close()
        go_on.set()

    asyncio.run(scenario())
    assert len(calls) <= 1, "the other one never had a thread"


def test_a_server_that_hangs_is_not_asked_again_before_its_answer():
    go_on, asked = threading.Event(), []

    def hangs() -> None:
        asked.append(len(asked))
        go_on.wait(240)

    async def scenario() -> None:
        readiness = Readiness({"slow": hangs}, limit=0.1)
        for _ in range(3):
            assert await readiness.ask() == {"slow": "no answer within 0 s"}
        assert len(asked) <= 1
        go_on.set()
        while (await readiness.ask())["slow"] != OK:
            pass
        readiness.close()

    asyncio.run(scenario())
