"""The commands of the hourly DAG's pods, against a trainer that does as it is told."""

import json
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import polars as pl
import pytest

from mlops import datasets
from mlops.cli import main
from mlops.config import RunIdentity, SensorApiSettings
from mlops.datasets.declaration import EVENT_TIME
from mlops.registry import card_page
from mlops.result import EXIT_REFUSED, EXIT_SKIPPED, Refused
from mlops.sensor_trainer import replay
from mlops.sensor_trainer.client import Trainer
from mlops.sensor_trainer.model.served import MODEL
from mlops.sensor_trainer.store.database import open_pool
from mlops.sensor_trainer.store.jobs import Jobs
from mlops.stores import http
from tests.conftest import answers, free_ports, running
from tests.unit.conftest import Platform
from tests.unit.sensor_api import sensor_settings, told
from tests.unit.sensor_servers import migrated_database
from tests.unit.small_models import version_of
from tests.unit.trainer_api import Api, Reply, job, serving

SHUTTLE = datasets.get("shuttle")
LATER = datetime(2090, 1, 1, tzinfo=UTC)
RESULT = {"metrics": {"auc": 0.99}, "model_version": "3", "served_version": "3", "served": True, "reason": "better"}


@pytest.fixture
def api(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    monkeypatch.setattr(http, "_SHORTEST_PAUSE", 0.01)
    monkeypatch.setattr(http, "_LONGEST_PAUSE", 0.02)
    monkeypatch.setenv("MAESTRO_SENSOR_TRAINER_TOKEN", "the-token")
    with serving() as found:
        monkeypatch.setenv("MAESTRO_SENSOR_TRAINER_URL", found.url)
        yield found


@pytest.fixture
def run(api: Api, environment: dict[str, str]) -> Callable[..., tuple[int, Any]]:
    """(exit code, result or cause) of a command of the group."""

    def once(*arguments: str) -> tuple[int, Any]:
        code = main(("sensor-trainer", *arguments))
        message = Path(environment["MAESTRO_RESULT_PATH"]).read_text()
        return code, json.loads(message) if code in (0, EXIT_SKIPPED) else message

    return once


class Queue:
    """The trainer's promise: one job a key, and one job at a time."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}

    def __call__(self, method: str, path: str, body: Any, key: str) -> Reply:
        if path.startswith("/status/"):
            return 200, next(one for one in self.jobs.values() if path.endswith(one["job_id"]))
        if key not in self.jobs:
            busy = [one for one in self.jobs.values() if one["state"] in ("queued", "running")]
            if busy:
                return 409, {"title": "Another job runs", "job_id": busy[0]["job_id"]}
            self.jobs[key] = {**job("queued"), "job_id": f"j{len(self.jobs) + 1}"}
        return 202, self.jobs[key]


@pytest.fixture
def queue(api: Api) -> Queue:
    found = Queue()
    api.answer = lambda method, path, body: found(method, path, body, api.asked[-1][3].get("Idempotency-Key", ""))
    return found


def test_a_retry_of_trigger_finds_its_job_again(run, queue, monkeypatch) -> None:
    first = run("trigger")
    queue.jobs[next(iter(queue.jobs))]["state"] = "running"
    monkeypatch.setenv("MAESTRO_TRY_NUMBER", "2")
    second = run("trigger")
    assert first == (0, {"job_id": "j1", "state": "queued", "started_elsewhere": False})
    assert second == (0, {"job_id": "j1", "state": "running", "started_elsewhere": False})
    assert len(queue.jobs) == 1


def test_another_run_has_another_key_and_a_long_name_still_fits(run, queue, monkeypatch) -> None:
    run("trigger")
    queue.jobs[next(iter(queue.jobs))]["state"] = "succeeded"
    monkeypatch.setenv("MAESTRO_RUN_ID", "scheduled__2026-01-01T03:00:00+00:00" + "x" * 500)
    assert run("trigger")[1]["job_id"] == "j2"
    assert all(0 < len(key) <= 200 and key.isascii() and key.isprintable() for key in queue.jobs)


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_cleared_run_whose_job_is_lost_asks_for_another_one(run, queue, state: str) -> None:
    run("trigger")
    (key,) = queue.jobs
    queue.jobs[key]["state"] = state
    assert run("trigger")[1]["job_id"] == "j2"
    assert run("trigger")[1]["job_id"] == "j2"
    assert list(queue.jobs) == [key, f"{key}-2"]


@pytest.mark.parametrize("state", ["succeeded", "skipped"])
def test_a_cleared_run_whose_job_ended_well_makes_no_second_model(run, queue, state: str) -> None:
    run("trigger")
    queue.jobs[next(iter(queue.jobs))]["state"] = state
    assert run("trigger")[1]["job_id"] == "j1"


def test_keys_do_not_go_on_for_ever(run, api: Api) -> None:
    api.says((202, job("failed")))
    code, cause = run("trigger")
    assert (code, len(api.asked)) == (EXIT_REFUSED, 20)
    assert "trigger a new run" in cause


def test_another_training_of_the_model_is_followed_and_said(run, queue, caplog, monkeypatch) -> None:
    run("trigger")
    monkeypatch.setenv("MAESTRO_RUN_ID", "another")
    assert run("trigger")[1] == {"job_id": "j1", "state": "queued", "started_elsewhere": True}
    assert "another training of the model is under way" in caplog.text


def test_a_least_number_of_new_readings_goes_with_the_request(run, queue, api: Api) -> None:
    run("trigger", "--minimum-new-readings=7")
    assert api.asked[-1][2] == {"minimum_new_readings": 7}


@pytest.mark.parametrize("rendered", ["None", ""])
def test_a_parameter_that_is_not_set_leaves_the_trainers_own(run, queue, api: Api, rendered: str) -> None:
    run("trigger", f"--minimum-new-readings={rendered}")
    assert api.asked[-1][2] == {}


@pytest.fixture
def published(platform: Platform) -> dict[str, Any]:
    """What a job says that published a version with its card."""
    with platform.tracking.new_run(MODEL, "a job", {}) as run_id:
        platform.tracking.log_text(run_id, card_page.FILE, "<h1>The card</h1>")
    return {**RESULT, "model_version": version_of(MODEL, run_id)}


def test_monitor_waits_for_the_end_and_hands_the_result_back_beside_the_card(
    platform: Platform, published, api: Api, caplog
) -> None:
    caplog.set_level("INFO")
    running = job("running", step="fit", progress=0.4)
    api.says((200, job("queued")), (200, running), (200, running), (200, job("succeeded", result=published)))
    result = platform.result_of("sensor-trainer", "monitor", "--job-id=j1", "--poll=0", task="monitor_training")
    assert result == {"job_id": "j1", "attempt": 1, **published}
    version, task = published["model_version"], RunIdentity.from_environment().run_key
    for key in (f"models/{MODEL}/v{version}/{card_page.FILE}", f"{task}/{card_page.FILE}"):
        assert platform.reports.read_bytes(key) == b"<h1>The card</h1>"
    assert [line for line in caplog.messages if line.startswith("job ")] == [
        "job j1: queued",
        "job j1: running, step fit, 40% done",
        "job j1: succeeded",
    ]


def test_too_few_readings_skip_the_task_with_the_count(run, api: Api) -> None:
    reason = "12 new readings, 500 are wanted"
    api.says((200, job("skipped", result={"new_readings": 12}, error=reason)))
    assert run("monitor", "--job-id=j1") == (EXIT_SKIPPED, {"skipped": f"job j1: {reason}"})


def test_a_failed_job_fails_the_task_for_good_with_its_cause(run, api: Api) -> None:
    api.says((200, job("failed", step="fit", attempt=5, error="role sensors may not read readings")))
    code, cause = run("monitor", "--job-id=j1")
    assert code == EXIT_REFUSED
    assert "job j1 failed at step fit in attempt 5: role sensors may not read readings" in cause
    assert "clear trigger_training" in cause


def test_a_cancelled_job_fails_the_task_for_good(run, api: Api) -> None:
    api.says((200, job("cancelled")))
    code, cause = run("monitor", "--job-id=j1")
    assert code == EXIT_REFUSED
    assert "was cancelled" in cause


def test_a_trainer_that_is_away_for_a_while_is_asked_again(platform: Platform, published, api: Api) -> None:
    away = (503, {"title": "A server behind this one is away"})
    api.says((200, job("running")), away, away, away, (200, job("succeeded", result=published)))
    assert platform.run("sensor-trainer", "monitor", "--job-id=j1", "--poll=0")[0] == 0


def test_a_job_that_does_not_end_in_time_may_be_waited_for_again(run, api: Api) -> None:
    api.says((200, job("running", step="fit", progress=0.4)))
    code, cause = run("monitor", "--job-id=j1", "--poll=0.01", "--patience=0.1")
    assert code == 1, "another try may find it ended"
    assert "running, step fit, 40% done" in cause


def test_a_trainer_that_stays_away_fails_the_task_with_the_kind_of_trouble(run, monkeypatch) -> None:
    monkeypatch.setenv("MAESTRO_SENSOR_TRAINER_URL", "http://127.0.0.1:9")
    for command in (("check-trainer",), ("trigger",), ("monitor", "--job-id=j1")):
        code, cause = run(*command, "--patience=0.05")
        assert code == 1
        assert "refuses the connection" in cause


def test_the_health_checks_say_what_is_away_and_what_is_well(run, api: Api, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", api.url)
    assert run("check-trainer") == (0, {"sensor_trainer": "ready"})
    assert run("check-mlflow") == (0, {"mlflow": "answers"})
    api.says((503, {"redis": "no answer within 2 s", "postgresql": "ok", "mlflow": "ok"}))
    code, cause = run("check-trainer", "--patience=0.05")
    assert (code, cause) == (1, "the sensor trainer runs and is not ready; redis: no answer within 2 s")


class Store:
    """Takes readings as the trainer does: by their keys."""

    def __init__(self) -> None:
        self.readings: dict[str, dict[str, Any]] = {}
        self.batches: list[list[dict[str, Any]]] = []

    def __call__(self, method: str, path: str, body: Any) -> Reply:
        batch = body["readings"]
        self.batches.append(batch)
        new = {reading["key"]: reading for reading in batch if reading["key"] not in self.readings}
        self.readings |= new
        return 200, {"accepted": len(new), "duplicates": len(batch) - len(new)}


def test_the_real_set_is_replayed_hour_by_hour_and_a_second_time_changes_nothing(
    api: Api, platform, datasets_dir: Path, tables
) -> None:
    platform.result_of(*("ingestion", "load", "--dataset", "shuttle", "--folder", str(datasets_dir), "--shift-to-now"))
    store = Store()
    api.answer = store
    command = ("sensor-trainer", "replay", "--dataset", "shuttle", "--hours", "6")
    result = platform.result_of(*command)
    assert (result["accepted"], result["duplicates"]) == (360, 0)
    assert result["hours"] == len(store.batches) == len({batch[0]["time"][:13] for batch in store.batches})
    times = [datetime.fromisoformat(reading["time"]) for batch in store.batches for reading in batch]
    assert times == sorted(times)
    assert times[-1] <= datetime.now(UTC)
    raw = tables("shuttle").raw.tail(360)
    assert [reading["failure"] for reading in store.readings.values()] == [bool(label) for label in raw["anomaly"]]
    newest = list(store.readings.values())[-1]
    assert newest["sensor"] == "shuttle"
    assert newest["values"] == {f"f{i}": float(raw[f"f{i}"].iloc[-1]) for i in range(1, 10)}
    failures = {json.dumps(one["values"]) for one in result["failures"]}
    assert failures <= {json.dumps(one["values"]) for one in store.readings.values() if one["failure"]}
    assert len(result["healthy"]) == 1
    again = platform.result_of(*command)
    assert (again["accepted"], again["duplicates"]) == (0, 360)


def test_an_hour_of_many_readings_is_sent_in_batches(api: Api, platform, datasets_dir: Path, monkeypatch) -> None:
    platform.result_of("ingestion", "load", "--dataset", "shuttle", "--folder", str(datasets_dir))
    monkeypatch.setattr("mlops.sensor_trainer.commands._BATCH", 25)
    store = Store()
    api.answer = store
    assert platform.result_of("sensor-trainer", "replay", "--dataset", "shuttle", "--hours", "3")["accepted"] == 180
    assert max(len(batch) for batch in store.batches) == 25


def test_a_reading_without_a_label_or_without_a_value(tables) -> None:
    table = tables("shuttle").raw.tail(120).copy()
    table["anomaly"] = table["anomaly"].astype("float64")
    table.iloc[0, table.columns.get_loc("anomaly")] = None
    table["f3"] = table["f3"].astype("float64")
    table.iloc[1, table.columns.get_loc("f3")] = None
    rows = replay.newest(pl.from_pandas(table).lazy(), SHUTTLE, 2, LATER)
    sent = [reading for hour in replay.by_hour(rows, SHUTTLE) for reading in hour.readings]
    assert len(sent) == 119, "what lacks a value is no reading"
    assert sent[0]["failure"] is None
    assert {one["failure"] for one in sent[1:]} <= {True, False}


def test_rows_without_times_are_no_readings() -> None:
    adult = datasets.get("adult")
    with pytest.raises(Refused, match="no event times"):
        replay.newest(pl.LazyFrame(), adult, 1, LATER)


def test_a_row_of_the_future_is_not_the_newest(tables) -> None:
    table = pl.from_pandas(tables("shuttle").raw)
    late = table.tail(1).with_columns(
        pl.lit(datetime(2096, 1, 1, tzinfo=UTC)).cast(table.schema[EVENT_TIME]).alias(EVENT_TIME)
    )
    assert replay.newest(pl.concat([table, late]).lazy(), SHUTTLE, 2, LATER).equals(
        replay.newest(table.lazy(), SHUTTLE, 2, LATER)
    )


def test_hours_are_those_of_the_clock(tables) -> None:
    rows = replay.newest(pl.from_pandas(tables("shuttle").raw).lazy(), SHUTTLE, 5, LATER)
    starts = [hour.start for hour in replay.by_hour(rows, SHUTTLE)]
    assert all((start.minute, start.second) == (0, 0) for start in starts)
    assert {later - earlier for earlier, later in pairwise(starts)} == {timedelta(hours=1)}
    assert rows[EVENT_TIME].is_monotonic_increasing


@pytest.fixture
def real(postgresql: str, environment: dict[str, str], monkeypatch, tmp_path: Path) -> Iterator[SensorApiSettings]:
    """The real service over a database of its own, named to the commands; Redis and MLflow are away."""
    settings = sensor_settings(database_url=migrated_database(postgresql))
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    serve = [sys.executable, "-m", "mlops", "sensor-trainer", "serve", "--host", "127.0.0.1", "--port", str(port)]
    monkeypatch.setenv("MAESTRO_SENSOR_TRAINER_URL", url)
    monkeypatch.setenv("MAESTRO_SENSOR_TRAINER_TOKEN", settings.token)
    monkeypatch.setattr(http, "_SHORTEST_PAUSE", 0.01)
    with running(serve, tmp_path / "log", lambda: answers(f"{url}/health"), told(settings)):
        yield settings


def test_the_commands_and_the_real_service_understand_each_other(
    real: SensorApiSettings, environment, tables, monkeypatch
):
    def run(*arguments: str) -> tuple[int, Any]:
        code = main(("sensor-trainer", *arguments))
        message = Path(environment["MAESTRO_RESULT_PATH"]).read_text()
        return code, json.loads(message) if code in (0, EXIT_SKIPPED) else message

    code, cause = run("check-trainer", "--patience=0.1")
    assert (code, "redis:" in cause, "mlflow:" in cause, "postgresql:" in cause) == (1, True, True, False)

    trainer, rows = (
        Trainer.from_environment(),
        replay.newest(pl.from_pandas(tables("shuttle").raw).lazy(), SHUTTLE, 2, LATER),
    )
    rows[EVENT_TIME] += datetime.now(UTC) - rows[EVENT_TIME].max()
    sent = replay.readings(rows, SHUTTLE)
    assert trainer.ingest(sent) == (len(rows), 0)
    assert trainer.ingest(sent) == (0, len(rows))
    with pytest.raises(Refused, match=r"reading 1, values.f3: is missing"):
        trainer.ingest([sent[0], {**sent[1], "values": {k: v for k, v in sent[1]["values"].items() if k != "f3"}}])

    code, first = run("trigger", "--minimum-new-readings=1000")
    assert (code, first["state"]) == (0, "queued")
    assert run("trigger", "--minimum-new-readings=1000") == (code, first)
    code, cause = run("trigger", "--minimum-new-readings=5")
    assert (code, "does not take the request" in cause) == (EXIT_REFUSED, True)
    monkeypatch.setenv("MAESTRO_RUN_ID", "another")
    assert run("trigger")[1] == {**first, "started_elsewhere": True}
    code, cause = run("monitor", f"--job-id={first['job_id']}", "--patience=0.1", "--poll=0.01")
    assert (code, "it is queued" in cause) == (1, True)

    with open_pool(real.database, size=1) as pool:
        attempt = Jobs(pool).claim(UUID(first["job_id"]))
        assert attempt is not None
        with attempt.finishing() as ending:
            ending.skip(f"{len(rows)} new readings, 1000 are needed", {})
    code, result = run("monitor", f"--job-id={first['job_id']}")
    assert (code, result["skipped"].endswith("new readings, 1000 are needed")) == (EXIT_SKIPPED, True)
    assert run("trigger")[1]["job_id"] != first["job_id"], "the other run's key was never used up"

    assert run("monitor", f"--job-id={UUID(int=0)}")[0] == EXIT_REFUSED
    monkeypatch.setenv("MAESTRO_SENSOR_TRAINER_TOKEN", "wrong")
    code, cause = run("trigger")
    assert (code, "refuses the token (401)" in cause) == (EXIT_REFUSED, True)
