"""The commands of monitoring_dag, before an Airflow API, a Prometheus and a webhook that answer over HTTP."""

import json
import logging
import re
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.health.failures import fingerprint, last_words
from mlops.health.runs import fence
from mlops.result import EXIT_SKIPPED
from tests.processes import free_ports
from tests.servers import Server
from tests.unit.airflow_api import COMPONENTS, NOW, TOKEN, AirflowApi, iso
from tests.unit.conftest import Platform, new_platform
from tests.unit.trainer_api import Api, serving

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
CHECKS = {"runs": "check_dag_runs", "failures": "check_task_failures", "components": "check_scheduler_health"}


@dataclass
class Monitoring:
    """The DAG's steps as pods run them, a run each time; what people were told."""

    platform: Platform
    webhook: Api
    number: int = 0

    def once(self, *options: str, broken: str | None = None) -> dict[str, Any]:
        """A whole run up to its report, which is handed back; broken: a check whose task fails."""
        self.number += 1
        self.platform.as_run(f"run-{self.number}")
        for check, task in CHECKS.items():
            if check != broken:
                self.platform.result_of("health", check, *options, task=task)
        states = {task: "failed" if check == broken else "success" for check, task in CHECKS.items()}
        self.result = self.platform.result_of("health", "report", f"--states={json.dumps(states)}")
        report: dict[str, Any] = json.loads(self.platform.reports.read_bytes(self.result["report_json"]))
        return report

    @property
    def page(self) -> str:
        return self.platform.reports.read_bytes(self.result["report"]).decode()

    def told(self) -> list[str]:
        """The lines that the run tells people; none where it is skipped."""
        self.webhook.asked.clear()
        code, message = self.platform.run("health", "alert", f"--report-json={self.result['report_json']}")
        assert code == (0 if self.webhook.asked else EXIT_SKIPPED), message
        return [line for asked in self.webhook.asked for line in asked[2]["text"].splitlines()]


@pytest.fixture
def platform(environment: dict[str, str], s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Platform:
    """Buckets alone: no check asks MLflow."""
    return new_platform(s3_endpoint, monkeypatch)


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    with serving() as api:
        monkeypatch.setenv("MAESTRO_SLACK_WEBHOOK_URL", api.url)
        yield api


@pytest.fixture
def airflow(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Iterator[AirflowApi]:
    with serving() as api:
        monkeypatch.setenv("MAESTRO_AIRFLOW_URL", api.url)
        stand_in = AirflowApi(api)
        yield stand_in
        stand_in.ended.set()


@pytest.fixture
def no_prometheus(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """A Prometheus in which there is nothing."""
    with serving() as api:
        api.says((200, {"status": "success", "data": {"resultType": "vector", "result": []}}))
        monkeypatch.setenv("MAESTRO_PROMETHEUS_URL", api.url)
        yield api


class Noon(datetime):
    """A clock that stands still while a run looks at Airflow."""

    @classmethod
    def now(cls, tz: Any = None) -> Self:
        return cls.fromtimestamp(NOW.timestamp(), tz)


@pytest.fixture
def monitoring(
    platform: Platform, airflow: AirflowApi, webhook: Api, no_prometheus: Api, monkeypatch: pytest.MonkeyPatch
) -> Monitoring:
    monkeypatch.setattr("mlops.health.commands.datetime", Noon)
    return Monitoring(platform, webhook)


def fail_three_times(airflow: AirflowApi) -> None:
    """A DAG that failed three times, always at the same task, by the same error, on the same node; and a sound one."""
    airflow.dag("sound", "only")
    airflow.dag("broken", "fetch", "score", "publish")
    airflow.run("sound", "success", NOW - HOUR)
    good = airflow.run("broken", "success", NOW - 30 * HOUR)
    airflow.task("broken", good, "score", "success", NOW - 30 * HOUR)
    for hours in (28, 6, 4, 2):  # the first lies before the window
        run = airflow.run("broken", "failed", NOW - hours * HOUR, version=2)
        airflow.task("broken", run, "fetch", "success", NOW - hours * HOUR)
        cause = f"the container exited with 1 (Error): no object runs/{hours}/x.parquet"
        where = {"cause": cause, "node": "node-b", "image": "localhost/maestro/task:0af1"}
        airflow.task("broken", run, "score", "failed", NOW - hours * HOUR, version=2, **where)
        airflow.task("broken", run, "publish", "upstream_failed", NOW - hours * HOUR)


def test_a_dag_that_fails_by_the_same_error_on_the_same_node_is_one_pattern_and_named_first(monitoring, airflow):
    fail_three_times(airflow)
    report = monitoring.once()
    (pattern,) = report["findings"]["failures"]["patterns"]
    assert (pattern["task"], pattern["failures"], pattern["nodes"]) == ("score", 3, {"node-b": 3})
    assert (pattern["after"], pattern["held_back"], pattern["goes_on"]) == (["fetch"], 3, True)
    (incident,) = report["incidents"]
    assert (incident["kind"], incident["subject"]) == ("failing", "broken")
    assert datetime.fromisoformat(incident["since"]) == NOW - 28 * HOUR, "it began before the window"
    assert incident["version"] == "version 2 of the DAG, after 1, image task:0af1"
    assert "4 runs in a row failed" in incident["text"]
    assert "task score failed 3 times with the same error, each time on node node-b" in incident["text"]
    assert incident["links"][0][1].startswith("dags/broken/runs/scheduled__")
    assert incident["links"][0][1].endswith("/tasks/score?try_number=3")
    assert "+" not in incident["links"][0][1], "a run's id is quoted"
    page = monitoring.page
    assert page.index("broken") < page.index("sound"), "what is wrong stands first"
    assert f'href="{"../" * 5}{incident["links"][0][1]}"' in page


def test_success_rates_are_of_the_runs_that_ended_in_the_window(monitoring, airflow):
    fail_three_times(airflow)
    airflow.run("broken", "running", NOW - timedelta(minutes=5))
    airflow.run("sound", "failed", NOW - 2 * HOUR)
    rates = {row["dag"]: row["success_rate"] for row in monitoring.once()["findings"]["runs"]["dags"]}
    assert rates == {"broken": 0.0, "sound": 0.5}


def test_a_failure_that_is_over_is_reported_and_no_incident(monitoring, airflow):
    fail_three_times(airflow)
    run = airflow.run("broken", "success", NOW - HOUR)
    airflow.task("broken", run, "score", "success", NOW - HOUR)
    report = monitoring.once()
    assert report["incidents"] == [] and report["healthy"]
    assert [each["goes_on"] for each in report["findings"]["failures"]["patterns"]] == [False]
    assert "Nothing is wrong" in monitoring.page


def test_failures_of_a_dag_that_no_file_declares_any_more_are_nobodys(monitoring, airflow):
    fail_three_times(airflow)
    airflow.dags = [dag for dag in airflow.dags if dag["dag_id"] != "broken"]
    report = monitoring.once()
    assert report["incidents"] == [] and report["findings"]["failures"]["patterns"] == []


def test_failures_of_several_tasks_are_compared_by_error_node_and_the_task_before(monitoring, airflow):
    airflow.dag("d", "a")
    airflow.tasks["d"] = {"a": ["b", "c"], "b": [], "c": []}
    run = airflow.run("d", "failed", NOW - HOUR)
    airflow.task("d", run, "b", "failed", NOW - HOUR, cause="bucket 7 is away", node="n1")
    airflow.task("d", run, "c", "failed", NOW - HOUR, cause="bucket 8 is away", node="n1")
    common = monitoring.once()["findings"]["failures"]["common"]
    assert {(each["what"], each["which"]) for each in common} == {
        ("error", "bucket # is away"),
        ("node", "n1"),
        ("upstream", "d.a"),
    }
    assert all(each["tasks"] == ["d.b", "d.c"] and each["failures"] == 2 for each in common)


def test_the_error_of_what_was_no_pod_is_taken_from_its_log(monitoring, airflow):
    airflow.dag("d", "sensor")
    run = airflow.run("d", "failed", NOW - HOUR)
    airflow.task("d", run, "sensor", "failed", NOW - HOUR)
    details = [{"exc_type": "KeyError", "exc_value": "'x'"}]
    airflow.logs["d", run, "sensor"] = [
        {"event": "Task failed", "level": "error", "error_detail": details},
        {"event": "bye", "level": "info"},
    ]
    (pattern,) = monitoring.once()["findings"]["failures"]["patterns"]
    assert pattern["error"] == "KeyError: 'x'"


def test_a_run_that_is_slower_than_its_own_history_is_named_with_its_longest_task(monitoring, airflow):
    airflow.dag("slow", "a", "b")
    airflow.dag("even", "a")
    for number in range(12):
        airflow.run("slow", "success", NOW - (40 + number) * HOUR, minutes=10 + number % 3)
        airflow.run("even", "success", NOW - (40 + number) * HOUR, minutes=10 + number % 3)
    airflow.run("even", "success", NOW - 2 * HOUR, minutes=13)
    run = airflow.run("slow", "success", NOW - 2 * HOUR, minutes=55)
    airflow.task("slow", run, "a", "success", NOW - HOUR, duration=100.0)
    airflow.task("slow", run, "b", "success", NOW - HOUR, duration=3100.0)
    (incident,) = monitoring.once()["incidents"]
    assert (incident["kind"], incident["subject"]) == ("slow", "slow")
    assert "took 55 min" in incident["text"]
    assert "half took less than 11 min" in incident["text"]
    assert "longest was its task b, 52 min" in incident["text"]
    assert incident["links"][-1][1].endswith("/tasks/b?try_number=3")


def test_a_run_that_still_runs_is_slow_as_soon_as_it_is(monitoring, airflow):
    airflow.dag("slow", "a")
    for number in range(12):
        airflow.run("slow", "success", NOW - (60 + number) * HOUR, minutes=10)
    airflow.run("slow", "running", NOW - 26 * HOUR)
    (incident,) = monitoring.once()["incidents"]
    assert incident["kind"] == "slow" and "has run 26.0 h" in incident["text"]


def test_runs_that_are_due_and_not_there_or_do_not_begin_are_late(monitoring, airflow):
    airflow.dag("due", "a", due=NOW - HOUR)
    airflow.dag("behind", "a", due=NOW - HOUR)
    airflow.dag("soon", "a", due=NOW - timedelta(minutes=2))
    airflow.dag("paused", "a", due=NOW - DAY, paused=True)
    airflow.dag("queued", "a")
    airflow.run("queued", "queued", NOW - HOUR, begun=False)
    airflow.run("behind", "running", NOW - 3 * HOUR)
    late = {each["subject"]: each["text"] for each in monitoring.once()["incidents"]}
    assert late.keys() == {"due", "behind", "queued"}
    assert late["due"].startswith("a run was due 60 min ago and is not there")
    assert "the one before it has run for 3.0 h" in late["behind"]
    assert "queued for 60 min" in late["queued"]


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_component_whose_heartbeat_is_old_comes_before_all_else(monitoring, airflow, component):
    fail_three_times(airflow)
    airflow.beats[component] = NOW - timedelta(minutes=4)
    first, second = monitoring.once()["incidents"]
    assert (first["kind"], first["subject"], second["kind"]) == ("component", component, "failing")
    assert datetime.fromisoformat(first["since"]) == NOW - timedelta(minutes=4)
    assert "no sign of life for 4 min" in first["text"]


def test_a_pool_is_starved_where_it_is_full_and_a_task_has_waited_for_long(monitoring, airflow):
    airflow.dag("d", "a")
    for name, minutes in (("training", 45), ("busy", 3)):
        airflow.pool(name, slots=2, taken=2, waiting=1)
        run = airflow.run("d", "running", NOW - timedelta(minutes=50))
        waiting = {"scheduled": NOW - timedelta(minutes=minutes), "pool": name}
        airflow.task("d", run, "a", "scheduled", None, **waiting)
    airflow.pool("free", slots=2, taken=1)
    (incident,) = monitoring.once()["incidents"]
    assert (incident["kind"], incident["subject"]) == ("pool", "training")
    assert "all 2 slots are taken, 1 tasks wait for one, the first for 45 min" in incident["text"]


def test_a_dag_file_that_cannot_be_read_is_named_with_its_error(monitoring, airflow):
    trace = "Traceback (most recent call last):\n  ...\nNameError: name 'x' is not defined\n"
    airflow.import_errors = [
        {"filename": "own.py", "timestamp": iso(NOW - HOUR), "bundle_name": "dags", "stack_trace": trace}
    ]
    (incident,) = monitoring.once()["incidents"]
    assert (incident["kind"], incident["subject"]) == ("dag-files", "own.py")
    assert "NameError: name 'x' is not defined" in incident["text"]


def test_people_are_told_when_it_begins_and_when_it_is_over_and_never_between(monitoring, airflow):
    fail_three_times(airflow)
    monitoring.once()
    (line,) = monitoring.told()
    assert line.startswith("broken, failing: 4 runs in a row failed")
    assert "log of the newest failure: /dags/broken/runs/" in line
    run = airflow.run("broken", "failed", NOW - HOUR, version=2)
    airflow.task("broken", run, "score", "failed", NOW - HOUR, cause="no object runs/9/x.parquet", node="node-b")
    monitoring.once()
    assert monitoring.told() == [], "it goes on"
    run = airflow.run("broken", "success", NOW)
    airflow.task("broken", run, "score", "success", NOW)
    monitoring.once()
    (line,) = monitoring.told()
    assert line.startswith("broken, failing: over. It was told at")
    monitoring.once()
    assert monitoring.told() == [], "it is over once"


def test_an_hour_in_which_all_is_well_tells_nobody_anything(monitoring, airflow):
    airflow.dag("sound", "a", due=NOW + HOUR)
    airflow.run("sound", "success", NOW - HOUR)
    assert monitoring.once()["healthy"]
    assert monitoring.told() == []


def test_without_prometheus_it_says_so_and_finds_what_airflow_knows(monitoring, airflow, monkeypatch):
    monkeypatch.setenv("MAESTRO_PROMETHEUS_URL", "http://127.0.0.1:9")
    airflow.beats["scheduler"] = NOW - timedelta(minutes=4)
    report = monitoring.once()
    first, second = report["incidents"]
    assert (first["kind"], second["kind"], second["subject"]) == ("component", "unseen", "check_scheduler_health")
    assert "Prometheus at http://127.0.0.1:9 refuses the connection" in second["text"]
    assert report["checks"] == {"runs": "complete", "failures": "complete", "components": "partial"}
    assert "Prometheus at http://127.0.0.1:9" in monitoring.page
    assert len(monitoring.told()) == 2
    airflow.beats["scheduler"] = NOW
    monitoring.once()
    (line,) = monitoring.told()
    assert line.startswith("scheduler, component: over."), "Airflow said so, Prometheus is not needed for that"


def test_an_api_that_is_slow_costs_what_it_does_not_say_and_nothing_that_it_does(monitoring, airflow):
    fail_three_times(airflow)
    monitoring.once()
    monitoring.told()
    airflow.hangs = {"dagRuns/~/taskInstances", "dags/sound/dagRuns"}
    report = monitoring.once("--timeout=10", "--patience=60")
    assert report["checks"] == {"runs": "partial", "failures": "partial", "components": "complete"}
    assert {row["dag"] for row in report["findings"]["runs"]["dags"]} == {"broken", "sound"}
    assert "4 runs in a row failed" in report["incidents"][0]["text"]
    (missing,) = report["unseen"]["runs"]
    assert missing.startswith("earlier runs of sound: Airflow at")
    assert "is slow: no whole answer" in missing
    assert not {"failing", "late", "slow"} & set(report["judged"])
    told = monitoring.told()
    assert all("unseen" in line for line in told) and len(told) == 2, "what nobody could look at is not over"


def test_an_api_that_does_not_answer_at_all_is_asked_until_the_time_is_up(monitoring, airflow):
    airflow.hangs = {"/auth/token"}
    report = monitoring.once("--timeout=0.3", "--patience=0.2")
    assert {each["subject"] for each in report["incidents"]} == set(CHECKS.values())
    assert any("the time is up" in text for text in report["unseen"]["components"])
    assert report["judged"] == ["unseen"]


def test_a_check_that_broke_is_a_hole_that_the_report_tells_of(monitoring, airflow):
    fail_three_times(airflow)
    monitoring.once()
    monitoring.told()
    report = monitoring.once(broken="failures")
    assert report["checks"]["failures"] == "broke"
    assert [each["kind"] for each in report["incidents"]] == ["failing", "unseen"]
    assert "check_task_failures left no findings" in monitoring.page
    (line,) = monitoring.told()
    assert line.startswith("check_task_failures, unseen:")


def test_what_a_try_before_left_of_a_check_that_broke_now_is_no_finding(monitoring, airflow):
    fail_three_times(airflow)
    monitoring.once()
    states = {"check_dag_runs": "success", "check_task_failures": "failed", "check_scheduler_health": "success"}
    result = monitoring.platform.result_of("health", "report", f"--states={json.dumps(states)}")
    assert result["checks"] == {"runs": "complete", "failures": "broke", "components": "complete"}


def test_of_a_list_of_several_pages_all_is_seen(monitoring, airflow):
    airflow.dag("often", "a")
    for number in range(250):
        airflow.run("often", "success" if number % 5 else "failed", NOW - timedelta(minutes=5 * number + 10), minutes=1)
    (row,) = monitoring.once()["findings"]["runs"]["dags"]
    assert (row["success"], row["failed"]) == (200, 50)


def test_it_only_reads_and_its_token_and_password_reach_no_log(monitoring, airflow, caplog, monkeypatch):
    airflow.password = "a-password-of-airflow"
    monkeypatch.setenv("MAESTRO_AIRFLOW_PASSWORD", airflow.password)
    fail_three_times(airflow)
    with caplog.at_level(logging.DEBUG):
        monitoring.once()
    assert {(method, path) for method, path, *_ in airflow.api.asked if method != "GET"} == {("POST", "/auth/token")}
    assert TOKEN not in caplog.text and airflow.password not in caplog.text


def test_a_password_that_airflow_does_not_take_is_said_with_the_remedy(monitoring, airflow):
    airflow.password = "another"
    report = monitoring.once()
    assert any("does not let the user monitoring in: run helm upgrade" in text for text in report["unseen"]["runs"])


class Prometheus(Server):
    """One that looks at a target every second and has one alert that fires at once."""

    target = ""

    def prepared(self) -> tuple[list[str], str]:
        (port,) = free_ports(1)
        rule = {"alert": "RedisDown", "expr": "vector(1)", "labels": {"severity": "critical"}}
        (self.folder / "rules.json").write_text(json.dumps({"groups": [{"name": "g", "rules": [rule]}]}))
        scrape = {"job_name": "postgresql", "static_configs": [{"targets": [self.target]}]}
        often = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        config = {"global": often, "rule_files": ["rules.json"], "scrape_configs": [scrape]}
        (self.folder / "prometheus.json").write_text(json.dumps(config))
        options = {
            "config.file": self.folder / "prometheus.json",
            "storage.tsdb.path": self.folder / "data",
            "web.listen-address": f"127.0.0.1:{port}",
            "log.level": "error",
        }
        return ["prometheus", *(f"--{name}={value}" for name, value in options.items())], f"http://127.0.0.1:{port}"

    def is_ready(self) -> bool:
        """Ready when it has seen the target and its alert fires."""
        return all(self._knows(name) for name in ("ALERTS", "airflow_db_heartbeat_timestamp_seconds"))

    def _knows(self, name: str) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/query?query={name}") as answer:
                return bool(json.load(answer)["data"]["result"])
        except OSError:  # it is not there yet, or not ready
            return False


@pytest.fixture
def prometheus(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Prometheus]:
    """A real Prometheus, which sees heartbeats that are ten minutes old and a pool that was waited for."""
    beats = "".join(
        f'airflow_db_heartbeat_timestamp_seconds{{job_type="{job}"}} {NOW.timestamp() - 600}\n'
        for job in ("SchedulerJob", "TriggererJob")
    )
    with serving() as exporter:
        exporter.says((200, f'{beats}airflow_db_pool_longest_wait_seconds{{pool="training"}} 77\n'.encode()))
        monkeypatch.setattr(Prometheus, "target", exporter.url.removeprefix("http://"))
        with Prometheus(run_folder) as server:
            monkeypatch.setenv("MAESTRO_PROMETHEUS_URL", server.url)
            yield server


def test_what_only_prometheus_knows_stands_in_the_report(monitoring, airflow, prometheus):
    airflow.pool("training", slots=2, taken=0)
    found = monitoring.once()["findings"]["components"]
    (alert,) = found["alerts"]
    assert (alert["alert"], alert["severity"]) == ("RedisDown", "critical")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", alert["since"])
    assert found["longest_silence"]["scheduler"] >= 600
    assert found["longest_silence"]["dag_processor"] is None
    assert found["longest_wait"] == {"training": 77.0}
    assert "RedisDown" in monitoring.page


def test_an_alert_of_prometheus_is_told_by_alertmanager_alone(monitoring, airflow, prometheus):
    monitoring.once()
    assert monitoring.told() == []


# Pure functions


@given(st.lists(st.floats(1, 1e5), min_size=8, max_size=60))
def test_no_run_of_a_history_of_like_runs_is_slow_and_the_fence_is_never_near(durations: list[float]) -> None:
    limit = fence(durations)
    middle = sorted(durations)[len(durations) // 2]
    assert limit is not None
    assert limit >= min(1.5 * sorted(durations)[(len(durations) - 1) // 2], middle + 60)
    assert fence([duration * 2 for duration in durations]) >= limit


def test_too_short_a_history_says_nothing() -> None:
    assert fence([1.0] * 7) is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (
            "no object runs/scheduled__2026-01-01T02:00:00+00:00/x",
            "no object runs/scheduled__2026-01-02T03:10:00Z/x",
            True,
        ),
        ("job 3f2a9c01-77aa-4d52-9b1e-0123456789ab failed", "job 00000000-77aa-4d52-9b1e-abcdefabcdef failed", True),
        ("took 3.5 s", "took 14 s", True),
        ("column f1 is missing", "column f2 is missing", False),
        ("MemoryError", "KeyError", False),
    ],
)
def test_two_occurrences_of_an_error_are_one_error(one: str, other: str, same: bool) -> None:
    assert (fingerprint(one) == fingerprint(other)) is same


def test_the_last_error_of_a_log_counts_and_a_log_without_one_says_nothing() -> None:
    assert last_words([{"event": "a", "level": "error"}, {"event": "b", "level": "critical"}, {"event": "c"}]) == "b"
    assert last_words([{"event": "a", "level": "info"}]) is None
