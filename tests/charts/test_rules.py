"""The rules of charts/monitoring by promtool, the names in them, their pages, and Alertmanager as it runs."""

import importlib.util
import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from infrastructure.dashboard import dashboards
from mlops.measure import METRICS
from mlops.sensor_trainer.api.metrics import ApiMetrics
from tests.charts.conftest import ROOT, find, render
from tests.conftest import eventually, free_ports, running
from tests.processes import is_healthy

AIRFLOW = Path(next(iter(importlib.util.find_spec("airflow").submodule_search_locations)))
CASES = ROOT / "tests/charts/rules"
RUNBOOKS = ROOT / "docs/runbooks"
QUERIES = ROOT / "charts/monitoring/files/postgresql-queries.yaml"
WEBHOOK = {"global": {"notifications": {"slackWebhookSecret": "slack"}}}


def rule_files(values: dict[str, Any] | None = None) -> dict[str, str]:
    found: dict[str, str] = find(render("monitoring", values), "ConfigMap", "maestro-prometheus-rules")["data"]
    return found


def rules() -> list[dict[str, Any]]:
    groups = [group for text in rule_files().values() for group in yaml.safe_load(text)["groups"]]
    return [rule for group in groups for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}


def program(*command: str | Path, within: Path) -> str:
    done = subprocess.run(command, cwd=within, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def rendered(tmp_path: Path) -> Path:
    """A folder with the rules as the chart renders them, and the cases beside them."""
    (tmp_path / "rules").mkdir()
    for name, text in rule_files().items():
        (tmp_path / "rules" / name).write_text(text)
    for path in CASES.glob("*.yaml"):
        shutil.copy(path, tmp_path)
    return tmp_path


# Rules


@pytest.mark.parametrize("name", sorted(rule_files()))
def test_each_rule_fires_on_its_case_and_is_silent_on_the_near_miss(rendered: Path, name: str) -> None:
    program("promtool", "check", "rules", f"rules/{name}", within=rendered)
    program("promtool", "test", "rules", name, within=rendered)


def test_each_alert_has_a_case_that_fires_and_one_that_does_not() -> None:
    tried: dict[str, set[int]] = {}
    for name in rule_files():
        for case in yaml.safe_load((CASES / name).read_text())["tests"]:
            for asked in case["promql_expr_test"]:
                for alert in re.findall(r'alertname="(\w+)"', asked["expr"]):
                    tried.setdefault(alert, set()).update(sample["value"] for sample in asked["exp_samples"])
    assert tried == {alert: {0, 1} for alert in ALERTS}


@pytest.mark.parametrize("alert", ALERTS)
def test_who_is_told_of_an_alert_learns_what_it_is_and_what_to_do(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["labels"].keys() == {"severity", "part"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/runbooks/{alert}.md"
    page = (RUNBOOKS / f"{alert}.md").read_text()
    assert page.startswith(f"# {alert}\n")
    assert re.findall(r"^## (.+)$", page, re.MULTILINE) == ["Look here", "Do this", "It is over when"]


def test_every_page_is_of_an_alert() -> None:
    assert {path.stem for path in RUNBOOKS.glob("*.md")} - {"README"} == ALERTS.keys()


def test_pages_are_read_where_values_say() -> None:
    for text in rule_files({"rules": {"runbooks": "https://pages.example.com/"}}).values():
        assert "docs/runbooks" not in text
        assert re.findall(r"runbook_url: (?!https://pages\.example\.com/\w+\.md$).*", text, re.MULTILINE) == []


def test_rules_of_ones_own_stand_beside_them() -> None:
    own = {"name": "own", "rules": [{"record": "answer", "expr": "42"}]}
    assert yaml.safe_load(rule_files({"rules": {"groups": [own]}})["own.yaml"]) == {"groups": [own]}


# Names

WORDS = re.compile(
    r"\b(?:and|or|unless|by|without|on|ignoring|group_left|group_right|offset|bool)\b(?:\s*\([^)]*\))?"
    r"|\{[^}]*\}|\"[^\"]*\"|'[^']*'|\[[^\]]*\]|\b\d\w*"
)


def used() -> set[str]:
    """The names of metrics in rules and panels, without those that rules make."""
    queries = [rule["expr"] for rule in rules()]
    queries += [target["expr"] for one in dashboards() for panel in one["panels"] for target in panel["targets"]]
    found: set[str] = set()
    for query in queries:
        found |= set(re.findall(r"\b[a-z_:]\w*\b(?!\s*\()", WORDS.sub(" ", query)))
    return found - {rule["record"] for rule in rules() if "record" in rule}


def by_airflow() -> set[str]:
    """What the StatsD exporter makes of what Airflow sends."""
    registry = yaml.safe_load((AIRFLOW / "_shared/observability/metrics/metrics_template.yaml").read_text())
    mapping = yaml.safe_load((ROOT / "charts/monitoring/files/statsd-mapping.yaml").read_text())["mappings"]
    names = set()
    for metric in registry["metrics"]:
        sent = "airflow." + re.sub(r"\{\w+\}", "x", metric["name"])
        matching = [one for one in mapping if re.fullmatch(re.escape(one["match"]).replace(r"\*", r"[^.]+"), sent)]
        name = matching[0]["name"] if matching else sent.replace(".", "_")
        names |= {f"{name}_{part}" for part in ("bucket", "count", "sum")} if metric["type"] == "timer" else {name}
    return names


def by_queries() -> set[str]:
    queries = yaml.safe_load(QUERIES.read_text())
    columns = ((name, *entry) for name, query in queries.items() for one in query["metrics"] for entry in one.items())
    return {f"{name}_{column}" for name, column, told in columns if told["usage"] != "LABEL"}


def by_our_code() -> set[str]:
    api = re.findall(r"^# TYPE (\w+) (\w+)", ApiMetrics().text().decode(), re.MULTILINE)
    shown = {f"{name}_bucket" if kind == "histogram" else name for name, kind in api}
    served = (ROOT / "mlops/serving/measured.py").read_text()
    counters = {f"{name}_total" for name in re.findall(r'Counter\(\s*"(\w+)"', served)}
    buckets = {f"{name}_bucket" for name in re.findall(r'Histogram\(\s*"(\w+)"', served)}
    states = set(re.findall(r'Sample\("(\w+)"', (ROOT / "images/monitoring/pod_states.py").read_text()))
    return {*METRICS, *shown, *counters, *buckets, *states}


def test_every_name_in_a_rule_or_a_panel_is_one_that_something_emits() -> None:
    elsewhere = {name for names in yaml.safe_load((CASES / "emitted.yaml").read_text()).values() for name in names}
    emitted = by_airflow() | by_queries() | by_our_code() | elsewhere
    assert len(used()) >= 30
    assert used() - emitted == set()
    assert elsewhere <= used(), "nothing is listed that no rule and no panel needs"


# Configuration


@pytest.mark.parametrize(
    "values",
    [
        {},
        {
            "prometheus": {
                "externalLabels": {"cluster": "a"},
                "remoteWrite": [{"url": "https://metrics.example.com/write"}],
                "scrapeConfigs": [{"job_name": "own", "static_configs": [{"targets": ["own:80"]}]}],
            },
            "alertmanager": {"enabled": False},
        },
    ],
)
def test_prometheus_takes_its_configuration(values: dict[str, Any], tmp_path: Path) -> None:
    text = find(render("monitoring", values), "ConfigMap", "maestro-prometheus")["data"]["prometheus.yaml"]
    (tmp_path / "prometheus.yaml").write_text(text)
    program("promtool", "check", "config", "--syntax-only", "prometheus.yaml", within=tmp_path)
    assert ("alerting" in yaml.safe_load(text)) == (values == {})


def alertmanager_config(values: dict[str, Any]) -> str:
    text: str = find(render("monitoring", values), "ConfigMap", "maestro-alertmanager")["data"]["alertmanager.yaml"]
    return text


OWN = {
    "alertmanager": {
        "receivers": [{"name": "night", "webhook_configs": [{"url": "http://night.example.com"}]}],
        "routes": [{"matchers": ['severity="critical"'], "receiver": "night"}],
    }
}


@pytest.mark.parametrize(
    ("values", "severity", "receiver"),
    [
        ({}, "critical", "people"),
        (WEBHOOK, "warning", "people"),
        (OWN, "warning", "people"),
        (OWN, "critical", "night"),
    ],
)
def test_alerts_go_to_people_and_to_receivers_of_ones_own(
    values: dict[str, Any], severity: str, receiver: str, tmp_path: Path
) -> None:
    (tmp_path / "a.yaml").write_text(alertmanager_config(values))
    program("amtool", "check-config", "a.yaml", within=tmp_path)
    asked = ("amtool", "config", "routes", "test", "--config.file=a.yaml", f"severity={severity}", "alertname=X")
    assert program(*asked, within=tmp_path).strip() == receiver


@contextmanager
def receiver() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A webhook; yields its address and the messages that it got."""
    got: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", got
        server.shutdown()


@contextmanager
def alertmanager(folder: Path) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Alertmanager as the chart configures it, but that it waits less for alerts of one group, and what it sent."""
    with receiver() as (webhook, got):
        (folder / "url").write_text(webhook)
        text = alertmanager_config(WEBHOOK).replace("/etc/alertmanager-webhook/url", str(folder / "url"))
        (folder / "a.yaml").write_text(re.sub("(group_wait|group_interval): .*", r"\1: 1s", text))
        (port,) = free_ports(1)
        url = f"http://127.0.0.1:{port}"
        options = [f"--web.listen-address=127.0.0.1:{port}", f"--storage.path={folder}", "--cluster.listen-address="]
        command = ["prometheus-alertmanager", f"--config.file={folder}/a.yaml", *options]
        with running(command, folder / "log", lambda: is_healthy(f"{url}/-/ready")):
            yield url, got


def tell(url: str, *names: str, **labels: str) -> None:
    """As Prometheus tells of alerts that fire."""
    told = [
        {
            "labels": {"alertname": name, **ALERTS[name]["labels"], **labels},
            "annotations": ALERTS[name]["annotations"],
            "startsAt": datetime.now(UTC).isoformat(),
        }
        for name in names
    ]
    headers = {"Content-Type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(f"{url}/api/v2/alerts", json.dumps(told).encode(), headers)).close()


def told_of(messages: list[dict[str, Any]]) -> list[str]:
    return sorted(attachment["title"].split()[1] for message in messages for attachment in message["attachments"])


def test_one_outage_is_one_message_which_says_what_to_do(tmp_path: Path) -> None:
    follows = ("DagRunPastDeadline", "DagNotSucceeding", "TaskQueueGrowing", "PoolStarved", "OnlineFeaturesStale")
    with alertmanager(tmp_path) as (url, got):
        tell(url, "AirflowSchedulerSilent")
        tell(url, *follows, dag_id="d")
        tell(url, "DataDrift", dataset="d", column="a")
        tell(url, "DataDrift", dataset="d", column="b")
        eventually(lambda: "DataDrift" in told_of(got) and "AirflowSchedulerSilent" in told_of(got))
    assert told_of(got) == ["AirflowSchedulerSilent", "DataDrift"]
    (scheduler,) = (m["attachments"][0] for m in got if "Silent" in m["attachments"][0]["title"])
    assert scheduler["title"] == "FIRING AirflowSchedulerSilent (critical)"
    assert "Look at the pod with the component airflow-scheduler" in scheduler["text"]
    assert "docs/runbooks/AirflowSchedulerSilent.md" in scheduler["text"]


def test_a_database_that_is_away_explains_all_that_airflow_would_say(tmp_path: Path) -> None:
    with alertmanager(tmp_path) as (url, got):
        tell(url, "AirflowDatabaseUnseen")
        tell(url, "TargetDown", job="postgresql-exporter")
        tell(url, *(name for name, rule in ALERTS.items() if rule["labels"]["part"] == "airflow"), dag_id="d")
        tell(url, "RedisDown")
        eventually(lambda: len(told_of(got)) >= 2)
    assert told_of(got) == ["AirflowDatabaseUnseen", "RedisDown"]


def test_an_alert_of_one_dag_or_pod_holds_back_those_of_the_same_one_only(tmp_path: Path) -> None:
    with alertmanager(tmp_path) as (url, got):
        tell(url, "TaskFailingRepeatedly", dag_id="a", task_id="t")
        tell(url, "DagRunFailed", dag_id="a")
        tell(url, "PodImageFailing", namespace="n", pod="p", container="c")
        tell(url, "PodPending", namespace="n", pod="p")
        tell(url, "PodPending", namespace="n", pod="q")
        eventually(lambda: len(told_of(got)) >= 3)
        assert told_of(got) == ["PodImageFailing", "PodPending", "TaskFailingRepeatedly"]
        tell(url, "DagRunFailed", dag_id="b")
        eventually(lambda: "DagRunFailed" in told_of(got))
