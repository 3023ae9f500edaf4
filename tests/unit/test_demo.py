"""`make demo` against stand-ins: Airflow and the services over real HTTP, and a kubectl that says what kubectl says."""

import base64
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from infrastructure import airflow, dashboard, demo, sensors, ui
from infrastructure.services import SECRET_NAME, USERNAME
from tests.conftest import ROOT, free_ports
from tests.unit.programs import DESCRIBED, put_service, services_case, stand_in
from tests.unit.trainer_api import Api, Reply, serving

FAILURE, HEALTHY = ({"sensor": "shuttle", "values": {"f1": first}} for first in (97.0, 50.0))
BY_IDS = "/predict by ids"  # of the server of clicks: the sensor trainer has the same path
QUERY, RANGE = "/api/v1/query", "/api/v1/query_range"  # of Prometheus
MODEL = {"model": "sensor-failure", "version": "4"}
# What the tasks that the demo shows hand back, by their DAG, in the order in which the DAGs are run.
RESULTS: dict[str, dict[str, Any]] = {
    "feature_engineering_pipeline": {"save_features": {"movielens": {"partitions": 8}, "shuttle": {"partitions": 0}}},
    "feature_materialization": {"materialize_features": {"rows_read": 49_097, "rows_written": 1}},
    "ml_pipeline_dag": {
        "evaluate_model": {"passed": True, "accuracy": 0.999, "baseline_accuracy": 0.93, "f1": 0.98, "auc": 1.0},
        "deploy_model": {**MODEL, "example": {"columns": ["f1"], "data": [[50.0]]}},
    },
    "model_training_pipeline": {
        "register_model": {**MODEL, "alias": "staging", "feature_service": "sensor_failure_v1"},
    },
    "data_validation_pipeline": {"generate_report": {"report": "validation/newest.html", "alerts": 2}},
    "ml_pipeline": {"generate_report": {"rows": 10_000, "scored": 9_999, "quarantined": 1, "version": "4"}},
    "training_pipeline": {
        "evaluate_model": {"metrics": {"auc": 0.7321, "log_loss": 0.6012}},
        "register_model": {"model": "ctr_model", "version": "3", "alias": "staging"},
    },
    "train_clustering_model": {
        "monitor_training": {
            "model_version": "6",
            "served_version": "6",
            "reason": "not worse",
            "metrics": {"auc": 0.9975},
        }
    },
}
SENT = {"accepted": 9_000, "hours": 168, "duplicates": 80, "failures": [FAILURE], "healthy": [HEALTHY]}
KUBECTL = """#!/bin/sh
case "$*" in
  *port-forward*) echo 'Forwarding from 127.0.0.1:{port} -> 8080'; exec sleep 60;;
  {services}
  *" get secret ours "*) echo {secret};;
  *" get configmap "*) echo {described};;
  *" create "*) cat >> {created}; echo >> {created}; echo job.batch/of-now;;
  *" get job.batch/of-now "*) echo {job};;
  *" get pods -l "*) echo {pods};;
  *" get pods"*) echo 'the pods as they are';;
  *" logs "*) echo 'what the job said';;
  *) echo "kubectl is not asked for $*" >&2; exit 1;;
esac
"""


class Platform:
    """Airflow's API and the services behind it, at one address. Each DAG run has one task more, which may fail."""

    def __init__(self, api: Api, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.api, self._folder, self._monkeypatch = api, folder, monkeypatch
        self.results = deepcopy(RESULTS)
        self.runs: list[tuple[str, Any]] = []  # (DAG, conf) of each run
        self.states: dict[str, str] = {}  # of a DAG's task, where it is not success
        self.instead: dict[str, Reply] = {}  # what a path answers otherwise
        self.versions = ["6"]  # that the sensor trainer serves, one an answer; the last one stays
        self.clicks: list[str | None] = ["3"]  # and that the server of clicks does, where it has one
        self.logs = [{"content": [{"event": "begun"}, {"event": "disk full"}], "continuation_token": None}]
        api.answer = self._answer
        self.kubectl()

    def kubectl(self, *, job: str = "Complete", port: int | None = None) -> None:
        """job: how the Job that sends readings ends; port: where the forwards lead, if not to the services."""
        keys = ("admin-password", "root-user", "root-password", "token", "writer-password")
        secret = {"data": {key: base64.b64encode(f"the {key}".encode()).decode() for key in keys}}
        status = {"state": {"terminated": {"message": json.dumps(SENT)}}}
        answers = {
            "secret": secret,
            "described": {"items": [DESCRIBED]},
            "job": {"status": {"conditions": [{"type": job, "status": "True"}]}},
            "pods": {"items": [{"status": {"containerStatuses": [status]}}]},
        }
        quoted = {name: shlex.quote(json.dumps(answer)) for name, answer in answers.items()}
        for page in ui.PAGES:
            put_service(self._folder, page.component, {page.port: 80}, {USERNAME: "ada", SECRET_NAME: "ours"})
        port, services = port or self.api.server.server_port, services_case(self._folder)
        script = KUBECTL.format(port=port, created=self._folder / "created", services=services, **quoted)
        stand_in(self._folder, self._monkeypatch, "kubectl", script)

    @property
    def commands(self) -> list[list[str]]:
        """What the Jobs ran that were made, in order."""
        jobs = map(json.loads, (self._folder / "created").read_text().splitlines())
        return [job["spec"]["template"]["spec"]["containers"][0]["args"][3:] for job in jobs]

    def _answer(self, method: str, path: str, body: Any) -> Reply:
        asked = BY_IDS if path == "/predict" and isinstance(body, list) else path.partition("?")[0]
        if asked in self.instead:
            return self.instead[asked]
        if path.startswith("/api/v2/dags"):
            return self._airflow(method, path.removeprefix("/api/v2/dags"), body)
        if asked == BY_IDS:
            return self._clicked(body)
        if asked == "/predict":
            predicted = {"failure": True, "cluster": 1}, {"failure": False, "cluster": 0}
            return 200, {"model_version": _next(self.versions), "predictions": predicted}
        return {
            **dict.fromkeys((QUERY, RANGE), (200, {"status": "success", "data": {"result": []}})),
            "/auth/token": (201, {"access_token": "the-token"}),
            "/get-online-features": (200, {"metadata": {"feature_names": ["f1"]}, "results": [{"values": [50.5]}]}),
            "/invocations": (200, {"predictions": [0]}),
        }[asked]

    def _clicked(self, rows: list[dict[str, str]]) -> Reply:
        """User 300 is known, of the others nothing is."""
        version = _next(self.clicks)
        if version is None:
            return 503, {"error_code": "NO_MODEL", "message": "run the DAG that trains it"}
        known = {"score": 0.81, "missing": [], "stale": ["age"], "age_seconds": {"user_activity": 7200.0}}
        unknown = {"score": 0.4, "missing": ["user_events", "age"], "stale": [], "age_seconds": {}}
        return 200, {"version": version, "predictions": [known if r["user_id"] == "300" else unknown for r in rows]}

    def _airflow(self, method: str, path: str, body: Any) -> Reply:
        if not path:
            return 200, {"dags": [{"dag_id": dag_id} for dag_id in self.results]}
        dag_id, _, rest = re.sub(r"^/(\w+)/dagRuns", r"\1 ", path).partition(" ")
        if method == "POST":
            self.runs.append((dag_id, body["conf"]))
            return 200, {"dag_run_id": "run_1"}
        state = self.states.get(dag_id, "success")
        begun = {"start_date": "2026-01-01T00:00:00Z", "end_date": "2026-01-01T00:00:02Z", "try_number": 2}
        if rest == "/run_1":
            return 200, {"state": state}
        if rest == "/run_1/taskInstances":
            tasks = [{"task_id": name, "state": "success", **begun} for name in self.results[dag_id]]
            waiting = {"task_id": "waiting", "state": "upstream_failed", "start_date": None, "end_date": None}
            return 200, {"task_instances": [waiting, *tasks, {"task_id": "last", "state": state, **begun}]}
        if rest.startswith("/run_1/taskInstances/last/logs/2?"):
            return 200, self.logs.pop(0) if len(self.logs) > 1 else self.logs[0]
        task = rest.removeprefix("/run_1/taskInstances/").removesuffix("/xcomEntries/return_value")
        if task in self.results[dag_id]:
            return 200, {"value": json.dumps(self.results[dag_id][task])}
        return 404, {"detail": "no such entry"}


def _next(answers: list[Any]) -> Any:
    return answers.pop(0) if len(answers) > 1 else answers[0]


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.delenv("DATASET", raising=False)
    monkeypatch.setattr(dashboard, "PAGE", tmp_path / "dashboard.html")
    (tmp_path / "dashboards").mkdir()  # one will do: a page of all is drawn in test_dashboard.py
    shutil.copy(dashboard.DASHBOARDS / "1-overview.json", tmp_path / "dashboards")
    monkeypatch.setattr(dashboard, "DASHBOARDS", tmp_path / "dashboards")
    with serving() as api:
        yield Platform(api, tmp_path, monkeypatch)


def test_the_demo_runs_each_dag_once_and_shows_what_came_of_it(platform, capsys):
    assert demo.main() == 0
    marker = dict(platform.runs)["ml_pipeline"]["marker"]
    assert re.fullmatch(r"inbox/demo-\d{8}-\d{6}/_READY", marker)
    assert platform.runs == [
        ("feature_engineering_pipeline", {}),
        ("feature_materialization", {}),
        ("ml_pipeline_dag", {"model": "sensor-failure"}),
        ("data_validation_pipeline", {"dataset": "shuttle"}),
        ("training_pipeline", {"epochs": 5, "min_auc": 0.55, "min_accuracy": 0.5}),
        ("model_training_pipeline", {"model": "sensor-failure-windows"}),
        ("ml_pipeline", {"model": "sensor-failure", "marker": marker}),
        ("train_clustering_model", {"minimum_new_readings": 0}),
    ]
    shown = capsys.readouterr().out
    for part in (
        *("last                       ok          2.0 s", "waiting                    not run"),
        "made anew: 8 of movielens, 0 of shuttle",
        *("49,097 rows read, 1 entities written", "machine shuttle  {'f1': 50.5}"),
        *("sensor-failure version 4, alias production", "0.9990   (always the majority class: 0.9300)"),
        *("{'f1': 50.0} -> [0]", "sensor-failure version 4, alias staging", "feature service sensor_failure_v1"),
        *("10,000 rows came, 9,999 are scored by version 4, 1 are put aside",),
        *("validation/newest.html in the bucket reports, 2 alerts", "9,000 new ones of 168 hours, 80 known"),
        *("ctr_model version 3, alias staging", "0.7321, 0.6012", "user 300, film 50 -> 0.810 by version 3"),
        "its features     user_activity 2.0 h old, 1 stale",
        *("version 6; version 6 is served: not worse", "auc 0.9975", "1 of 1 are flagged by version 6"),
        *("http://127.0.0.1:8080", "http://127.0.0.1:9001", "http://127.0.0.1:5000", "http://127.0.0.1:8000/docs"),
        "'make ui' shows the logins",
    ):
        assert part in shown
    (login,) = [body for _, path, body, _ in platform.api.asked if path == "/auth/token"]
    assert login == {"username": "ada", "password": "the admin-password"}
    asked = {path: headers["Authorization"] for _, path, _, headers in platform.api.asked if "Authorization" in headers}
    assert asked.pop("/predict") == "Bearer the token"
    assert set(asked.values()) == {"Bearer the-token"}


def test_passwords_are_shown_to_who_sits_at_a_terminal_and_written_into_no_file(platform, capsys, monkeypatch):
    logins = ("ada / the admin-password", "the root-user / the root-password", "token the token")
    demo.show_addresses()
    written = capsys.readouterr().out
    assert not [login for login in logins if login in written]
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    demo.show_addresses()
    shown = capsys.readouterr().out
    assert [login for login in logins if login in shown] == list(logins)


def test_the_demo_ends_with_the_address_of_the_dashboards(platform, capsys, tmp_path):
    assert demo.main() == 0
    assert f"Dashboards: file://{tmp_path}/dashboard.html" in capsys.readouterr().out
    assert "Maestro: overview" in (tmp_path / "dashboard.html").read_text()


@pytest.mark.parametrize("why", ["not installed", "in error", "no Prometheus"])
def test_a_platform_without_a_prometheus_that_answers_is_no_failure(platform, capsys, tmp_path, why):
    if why == "not installed":
        (tmp_path / "service-prometheus").unlink()
    else:
        platform.instead[RANGE] = (
            (503, b'{"status": "error", "error": "starting"}') if why == "in error" else (200, b"hi")
        )
    assert demo.main() == 0
    assert "No dashboards: " in capsys.readouterr().out
    assert not (tmp_path / "dashboard.html").exists()


def test_readings_are_sent_by_a_job_of_the_release(platform):
    assert demo.main() == 0
    assert platform.commands[-1] == [
        *("sensor-trainer", "replay", "--dataset=shuttle", f"--hours={demo.REPLAYED_HOURS}")
    ]


def promotions(platform: Platform) -> list[list[str]]:
    return [command for command in platform.commands if command[:2] == ["registry", "promote"]]


def test_the_first_network_of_a_platform_is_put_into_production_and_asked_then(platform, capsys):
    platform.clicks = [None, None, "3"]
    assert demo.main() == 0
    (promoted,) = promotions(platform)
    assert promoted[2:4] == ["--model=ctr_model", "--version=3"]
    assert "-> 0.810 by version 3" in capsys.readouterr().out


def test_a_network_that_learned_for_a_moment_takes_nobodys_place(platform, capsys):
    platform.clicks = ["2"]
    assert demo.main() == 0
    assert promotions(platform) == []
    assert "-> 0.810 by version 2" in capsys.readouterr().out


def test_a_network_that_is_promoted_and_not_served_fails_the_demo(platform, capsys, monkeypatch):
    monkeypatch.setattr(demo, "SERVED_SECONDS", 0)
    platform.clicks = [None]
    assert demo.main() == 1
    assert "a prediction by version 3 of ctr_model: not within 0 s" in capsys.readouterr().err


def test_a_platform_that_serves_no_network_is_no_failure(platform, capsys, tmp_path):
    (tmp_path / f"service-{ui.CLICKS}").unlink()
    assert demo.main() == 0
    assert "one prediction   none: no model server serves it" in capsys.readouterr().out


@pytest.mark.parametrize("failing", RESULTS)
def test_a_failed_run_fails_the_demo_with_the_log_of_the_failed_task(platform, capsys, failing):
    platform.states[failing] = "failed"
    assert demo.main() == 1
    said = capsys.readouterr()
    assert "--- log of last, try 2 ---\nbegun\ndisk full\n" in said.out
    assert "last                       FAILED" in said.out
    assert "log of waiting" not in said.out
    assert "The run failed" in said.err
    assert "make ui" not in said.out
    begun = {dag_id for dag_id, _ in platform.runs}
    assert failing in begun
    assert failing == demo.SENSORS or demo.SENSORS not in begun, "nothing is begun after a run that failed"
    assert not {late for late, needed in demo.AFTER.items() if needed == failing} & begun


def test_the_whole_log_is_shown_also_where_the_triggerers_part_comes_later(platform, capsys):
    platform.states["ml_pipeline_dag"] = "failed"
    worker = {"content": [{"event": f"begun\n{airflow.HANDED_OVER}"}], "continuation_token": None}
    first = {"content": ["begun"], "continuation_token": "more"}
    rest = {"content": [{"event": "the pod says: no memory"}], "continuation_token": "more"}
    platform.logs = [worker, first, rest]
    assert demo.main() == 1
    assert "begun\nthe pod says: no memory\n" in capsys.readouterr().out
    asked = [path for _, path, _, _ in platform.api.asked if "/logs/" in path]
    assert ["token=more" in path for path in asked] == [False, False, True]


def test_a_part_of_a_log_that_never_comes_is_said_to_be_missing(platform, capsys, monkeypatch):
    monkeypatch.setattr(airflow, "LOG_SECONDS", 0)
    platform.states["ml_pipeline_dag"] = "failed"
    platform.logs = [{"content": [{"event": airflow.HANDED_OVER}], "continuation_token": None}]
    assert demo.main() == 1
    assert "the triggerer's part of this log is missing" in capsys.readouterr().out


SHOWN = [(dag_id, task) for dag_id, tasks in RESULTS.items() for task in tasks]


@pytest.mark.parametrize(("dag_id", "task"), SHOWN)
def test_a_run_that_succeeded_and_left_no_result_fails_the_demo_and_the_task_is_named(platform, capsys, dag_id, task):
    del platform.results[dag_id][task]
    assert demo.main() == 1
    said = capsys.readouterr()
    assert task in said.err or "skip_registration" in said.err
    assert "make ui" not in said.out


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/auth/token", "/auth/token"),
        ("/api/v2/dags", "GET /dags: 500 the cause"),
        ("/get-online-features", "the feature server answered 500: the cause"),
        ("/invocations", "the model server answered 500: the cause"),
        ("/predict", "the sensor trainer answered 500: the cause"),
        (BY_IDS, "the model server of clicks answered 500: the cause"),
        ("/api/v2/dags/ml_pipeline_dag/dagRuns/run_1", "run_1: 500 the cause"),
        ("/api/v2/dags/ml_pipeline_dag/dagRuns/run_1/taskInstances/deploy_model/xcomEntries/return_value", "the cause"),
    ],
)
def test_a_service_that_answers_with_an_error_fails_the_demo_and_is_named(platform, capsys, path, named):
    platform.instead[path] = (500, b"the cause")
    assert demo.main() == 1
    said = capsys.readouterr().err
    assert named in said
    assert "the pods as they are" in said


def test_a_service_that_does_not_answer_fails_the_demo(platform, capsys):
    (port,) = free_ports(1)
    platform.kubectl(port=port)
    assert demo.main() == 1
    assert f"{port}" in capsys.readouterr().err


def test_a_platform_that_is_not_there_fails_the_demo(platform, capsys, tmp_path, monkeypatch):
    stand_in(tmp_path, monkeypatch, "kubectl", "#!/bin/sh\necho 'connection refused' >&2\nexit 1\n")
    assert demo.main() == 1
    assert "connection refused" in capsys.readouterr().err


def test_a_job_that_delivered_nothing_fails_the_demo_with_what_it_said(platform, capsys):
    platform.kubectl(job="Failed")
    assert demo.main() == 1
    assert "inference deliver failed, its log ends with:\nwhat the job said" in capsys.readouterr().err


def test_a_run_that_does_not_end_fails_the_demo(platform, capsys, monkeypatch):
    monkeypatch.setattr(demo, "RUN_SECONDS", 0)
    platform.states["ml_pipeline_dag"] = "running"
    assert demo.main() == 1
    assert "ml_pipeline_dag did not end within 0 min" in capsys.readouterr().err


def test_a_new_version_is_waited_for_until_the_trainer_serves_it(platform, capsys):
    platform.versions = ["5", "6"]
    assert demo.main() == 0
    assert "flagged by version 6" in capsys.readouterr().out


def test_a_version_that_is_never_served_fails_the_demo(platform, capsys, monkeypatch):
    monkeypatch.setattr(sensors, "_SERVED_SECONDS", 0)
    platform.versions = ["5"]
    assert demo.main() == 1
    assert "predictions by version 6: not within 0 s" in capsys.readouterr().err


def refused_model(results: dict[str, dict[str, Any]]) -> str:
    results["ml_pipeline_dag"]["evaluate_model"] |= {"passed": False, "reasons": ["F1 0.1 is below 0.8"]}
    del results["ml_pipeline_dag"]["deploy_model"]
    return "The model was not deployed: F1 0.1 is below 0.8"


def refused_registration(results: dict[str, dict[str, Any]]) -> str:
    results["model_training_pipeline"] = {"skip_registration": {"reasons": ["F1 0.2 is below 0.8"]}}
    return "The model was not registered: F1 0.2 is below 0.8"


def skipped_training(results: dict[str, dict[str, Any]]) -> str:
    results["train_clustering_model"] = {"monitor_training": {"skipped": "job j1: 0 new readings"}}
    return "No model was trained: job j1: 0 new readings"


@pytest.mark.parametrize("change", [refused_model, refused_registration, skipped_training])
def test_what_a_gate_refused_is_shown_and_is_no_failure_of_the_demo(
    platform, capsys, change: Callable[[dict[str, Any]], str]
):
    said = change(platform.results)
    assert demo.main() == 0
    assert said in capsys.readouterr().out


def confs(platform: Platform) -> Sequence[Any]:
    return [conf.get("model", conf.get("dataset")) for _, conf in platform.runs]


def test_another_data_set_is_the_runs_own_but_where_it_has_no_features(platform, monkeypatch):
    monkeypatch.setenv("DATASET", "adult")
    assert demo.main() == 0
    assert confs(platform) == [None, None, "income", "adult", None, "sensor-failure-windows", "income", None]


@pytest.mark.parametrize(("module", "code"), [("demo", 1), ("data", 1), ("install", 3)])
def test_a_program_ends_with_the_exit_code_of_its_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, code: int
) -> None:
    """It is all that make sees of it."""
    stand_in(tmp_path, monkeypatch, "kubectl", "#!/bin/sh\necho refused >&2\nexit 1\n")
    helm = "#!/bin/sh\n[ $1 = list ] && echo '[]' && exit\necho refused >&2\nexit 3\n"
    stand_in(tmp_path, monkeypatch, "helm", helm)
    command = [sys.executable, "-m", f"infrastructure.{module}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, "refused" in done.stderr) == (code, True), done.stderr
