"""The sensor trainer and its hourly DAG on the installed platform: one job, one model, whatever dies meanwhile."""

import http.client
import json
import subprocess
import sys
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from infrastructure.release import kubectl, object_name, selector, wait_until
from infrastructure.sensors import COMPONENT, replay, trainer
from tests.e2e.disturb import KILLED, away, reconnect, replaced
from tests.e2e.runs import clear, finished, retry_now, running_pod, states, tasks, versions
from tests.e2e.sensors import (
    DAG,
    ENDED,
    JOB_SECONDS,
    MODEL,
    VALUES,
    assert_one_model,
    ended,
    reading,
    send,
    status,
)

WORKER = f"{COMPONENT}-worker"
MINUTES = 2  # that a test takes which a run of the schedule would disturb


@pytest.fixture
def between_hourly_runs(services):
    """Waits until no run is under way and the schedule starts none for some minutes."""

    def undisturbed():
        due = datetime.fromisoformat(services.airflow.call("GET", f"/dags/{DAG}")["next_dagrun_run_after"])
        runs = services.airflow.call("GET", f"/dags/{DAG}/dagRuns", params={"state": ["queued", "running"]})
        for run in runs["dag_runs"]:
            retry_now(services, run["dag_run_id"], DAG)
        return not runs["total_entries"] and due - datetime.now(UTC) > timedelta(minutes=MINUTES)

    wait_until(undisturbed, (MINUTES + 10) * 60, f"the end of a scheduled run of {DAG}", 2)


def full(test):
    """A test for the full suite, which a run of the schedule would disturb."""
    return pytest.mark.full(pytest.mark.usefixtures("between_hourly_runs")(test))


@pytest.fixture(scope="module")
def sent():
    """What the replay of two days of the real set handed back."""
    return replay(48)


@pytest.fixture(scope="module")
def trained(services, sent):
    """The id of a run that has trained a model and served it."""
    run_id = services.airflow.trigger(DAG, {"minimum_new_readings": 0})
    assert finished(services, run_id, DAG) == "success"
    return run_id


@pytest.fixture
def api():
    with trainer() as found:
        yield found


def train(api, **request):
    """The id of a new job; one of the schedule that is under way is waited for."""
    key = uuid.uuid4().hex

    def submitted():
        answer = api.ask(
            "POST", "/train", json={"minimum_new_readings": 0, **request}, headers={"Idempotency-Key": key}
        )
        assert answer.status_code in (202, 409), answer.text
        return answer.json()["job_id"] if answer.status_code == 202 else None

    return wait_until(submitted, JOB_SECONDS, "the end of another training", 1)


def running(api):
    """The id of a job that a worker has begun."""
    job_id = train(api)

    def begun():
        state = status(api, job_id)["state"]
        assert state not in ENDED, f"the job was {state} before anything could happen to it"
        return state == "running"

    wait_until(begun, JOB_SECONDS, "a running job", 0.05)
    return job_id


def asked_in_vain(pod):
    """Whether the pod of a task has said that nobody answers: where it starts late, its service may be back by then.

    A Service without a pod refuses a connection, or NetworkPolicies have it never come about, as the node does it.
    """
    return "asking again" in kubectl("logs", pod)


def psql(statement):
    script = f'PGPASSWORD="$POSTGRES_PASSWORD" psql -h /tmp -U postgres -d sensors -Atc "{statement}"'
    return kubectl("exec", object_name("statefulset", "postgresql"), "--", "sh", "-c", script).strip()


def test_an_hourly_run_trains_and_serves_a_model(services, trained):
    assert set(states(services, trained, DAG).values()) == {"success"}
    result = services.airflow.result(DAG, trained, "monitor_training")
    version = services.mlflow.get_model_version_by_alias(MODEL, "production")
    assert str(version.version) == str(result["served_version"])
    assert result["metrics"]
    assert str(result["model_version"]) in {str(number) for number in versions(services, MODEL)}
    card = services.s3.get_object(Bucket="reports", Key=f"models/{MODEL}/v{result['model_version']}/model_card.html")
    assert MODEL in card["Body"].read().decode()
    links = services.airflow.call("GET", f"/dags/{DAG}/dagRuns/{trained}/taskInstances/monitor_training/links")
    assert links["extra_links"]["Report"].endswith("/model_card.html")


def test_a_failure_is_flagged_and_a_healthy_reading_is_not(services, trained, sent, api):
    result = services.airflow.result(DAG, trained, "monitor_training")
    answer = api.predict([*sent["failures"], *sent["healthy"]], str(result["served_version"]))
    flags = [prediction["failure"] for prediction in answer["predictions"]]
    assert any(flags[: len(sent["failures"])])
    assert not flags[-1]


def test_readings_are_kept_once(sent, api):
    new = reading()
    assert send(api, new, new).json() == {"accepted": 1, "duplicates": 1}
    assert send(api, new).json() == {"accepted": 0, "duplicates": 1}


def test_too_few_new_readings_show_as_skipped(services, trained):
    run_id = services.airflow.trigger(DAG, {"minimum_new_readings": 1_000_000})
    assert finished(services, run_id, DAG) == "success"
    state = states(services, run_id, DAG)
    assert state.pop("monitor_training") == "skipped"
    assert set(state.values()) == {"success"}
    assert "1000000 are needed" in services.airflow.result(DAG, run_id, "monitor_training")["skipped"]


def test_a_cleared_trigger_finds_its_job_again(services, trained):
    before = services.airflow.result(DAG, trained, "trigger_training")["job_id"]
    clear(services, trained, DAG, ["trigger_training"], include_downstream=True)
    wait_until(lambda: services.airflow.run(DAG, trained)["state"] != "success", 60, "the run's second start", 0.2)
    assert finished(services, trained, DAG) == "success"
    assert services.airflow.result(DAG, trained, "trigger_training")["job_id"] == before


@full
def test_a_killed_worker_and_a_killed_task_leave_one_job_and_one_model(services, trained, api):
    with away(WORKER, waited_for=False):
        run_id = services.airflow.trigger(DAG, {"minimum_new_readings": 0})
        pod = running_pod(services, run_id, "monitor_training", DAG)
        kubectl("delete", "pod", pod, *KILLED, "--wait=false")
    job_id = services.airflow.result(DAG, run_id, "trigger_training")["job_id"]
    wait_until(lambda: status(api, job_id)["state"] == "running", JOB_SECONDS, "a running job", 0.05)
    with replaced(WORKER, *KILLED):
        pass
    assert finished(services, run_id, DAG, hurried=True) == "success"
    assert services.airflow.result(DAG, run_id, "monitor_training")["job_id"] == job_id
    assert tasks(services, run_id, DAG)["monitor_training"]["try_number"] == 2
    job = status(api, job_id)
    assert job["attempt"] == 2
    assert_one_model(services, job)


@full
def test_redis_killed_while_a_model_is_trained_loses_no_job(services, trained, api):
    job_id = running(api)
    with replaced("redis", *KILLED):
        assert_one_model(services, ended(api, job_id))
        after = train(api)
    assert_one_model(services, ended(api, after))


@full
def test_the_api_killed_while_a_model_is_trained_loses_no_job(services, trained):
    with trainer() as api:
        job_id = running(api)
    with replaced(COMPONENT, *KILLED):
        pass
    with trainer() as api:
        assert_one_model(services, ended(api, job_id))


@full
def test_postgresql_restarted_while_a_model_is_trained_loses_no_job_and_no_reading(services, trained, api):
    new = reading()
    assert send(api, new).json()["accepted"] == 1
    job_id = running(api)
    with replaced("postgresql"):
        pass
    job = ended(api, job_id)
    reconnect(services)
    assert_one_model(services, job)
    assert send(api, new).json() == {"accepted": 0, "duplicates": 1}


@full
def test_mlflow_away_for_a_while_is_named_stops_no_reading_and_fails_no_run(services, trained, api):
    with away("mlflow"):
        answer = api.ask("GET", "/ready")
        assert (answer.status_code, answer.json()["redis"], answer.json()["postgresql"]) == (503, "ok", "ok")
        assert answer.json()["mlflow"] != "ok"
        assert send(api, reading()).status_code == 200
        run_id = services.airflow.trigger(DAG, {"minimum_new_readings": 0})
        pod = running_pod(services, run_id, "check_mlflow_health", DAG)
        wait_until(lambda: asked_in_vain(pod), 80, "a question to MLflow in vain")
    reconnect(services)
    assert finished(services, run_id, DAG) == "success"
    assert "asking again" in services.airflow.log(DAG, run_id, "check_mlflow_health", 1)


@full
def test_a_trainer_that_is_away_for_a_while_fails_no_run(services, trained):
    with away(COMPONENT):
        run_id = services.airflow.trigger(DAG, {"minimum_new_readings": 0})
        pod = running_pod(services, run_id, "check_trainer_health", DAG)
        wait_until(lambda: asked_in_vain(pod), 80, "a question to the trainer in vain")
    assert finished(services, run_id, DAG) == "success"
    assert "asking again" in services.airflow.log(DAG, run_id, "check_trainer_health", 1)


@full
def test_a_user_without_permission_is_the_cause_that_is_told(trained, api):
    psql("REVOKE ALL ON sensors.readings FROM sensors")
    try:
        answer = send(api, reading())
        assert answer.status_code == 503, answer.text
        assert "permission" in answer.text
        job = ended(api, train(api))
        assert job["state"] == "failed"
        assert "permission" in job["error"]
    finally:
        psql("GRANT ALL ON sensors.readings TO sensors")
    assert send(api, reading()).status_code == 200


@pytest.mark.parametrize("token", ["Bearer wrong", "Bearer ", ""], ids=["wrong", "empty", "none"])
def test_a_wrong_token_is_refused(api, token):
    api.session.headers["Authorization"] = token
    for method, path in (
        ("POST", "/predict"),
        ("POST", "/readings"),
        ("POST", "/train"),
        ("GET", f"/status/{uuid.uuid4()}"),
    ):
        answer = api.ask(method, path)
        assert answer.status_code == 401, f"{method} {path}: {answer.text}"
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")


MALFORMED = {
    "NaN": lambda good: {"values": {**VALUES, "f3": float("nan")}},
    "an unknown sensor": lambda good: {"sensor": "nobody"},
    "a time in the future": lambda good: {"time": (datetime.now(UTC) + timedelta(hours=1)).isoformat()},
    "a missing column": lambda good: {"values": {name: value for name, value in VALUES.items() if name != "f5"}},
    "a duplicate of another content": lambda good: {**good, "values": {**VALUES, "f1": 51.0}},
}


@pytest.mark.parametrize("fault", MALFORMED)
def test_a_malformed_reading_refuses_its_whole_batch_and_is_named(sent, api, fault):
    good = reading()
    changes = MALFORMED[fault](good)
    batch = json.dumps({"readings": [good, reading(**changes)]})
    answer = api.ask("POST", "/readings", data=batch, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    assert [error.get("index") for error in answer.json()["errors"]] == [1]
    assert send(api, good).json()["accepted"] == 1, "nothing of the batch had been taken"


@pytest.mark.parametrize("length", ["said", "not said"])
def test_a_body_of_100_mb_is_refused_and_the_api_stays_up(api, length):
    """Its answer may be lost, as it comes before the body was sent; what must not be is the service."""
    restarts = "jsonpath={.items[*].status.containerStatuses[*].restartCount}"
    counted = ("get", "pods", "-l", selector(COMPONENT), "-o", restarts)
    before, piece = kubectl(*counted), b" " * (1 << 20)
    connection = http.client.HTTPConnection(urlsplit(api.url).netloc, timeout=30)
    connection.putrequest("POST", "/readings")
    connection.putheader("Authorization", api.session.headers["Authorization"])
    connection.putheader("Content-Type", "application/json")
    connection.putheader(
        *(("Content-Length", str(100 << 20)) if length == "said" else ("Transfer-Encoding", "chunked"))
    )
    connection.endheaders()
    code = None
    try:
        if length == "not said":
            for _ in range(100):
                connection.send(b"%x\r\n%s\r\n" % (len(piece), piece))
        code = connection.getresponse().status
    except (OSError, http.client.HTTPException):
        assert length == "not said", "a length that is said is answered at once"
    finally:
        connection.close()
    assert code in (413, None)
    assert api.ask("GET", "/health").status_code == 200
    assert kubectl(*counted) == before


@full
def test_no_request_of_its_own_document_breaks_the_api(trained, api):
    command = [
        *(Path(sys.executable).with_name("schemathesis"), "run", f"{api.url}/openapi.json"),
        *("--header", f"Authorization: {api.session.headers['Authorization']}", "--checks", "not_a_server_error"),
        *("--phases", "examples,fuzzing", "--max-examples", "10", "--request-timeout", "20"),
        *("--suppress-health-check", "all", "--no-color"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout[-4000:]
