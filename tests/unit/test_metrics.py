"""What a command measures reaches a real push gateway, and one that is away costs it two seconds and nothing else."""

import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType

import pytest

from mlops import cli, measure
from mlops.config import PushgatewaySettings
from mlops.measure import METRICS, Measured
from mlops.result import Failure, Refused, Skip
from mlops.stores import metrics
from tests.conftest import ROOT
from tests.servers import PushGateway

COUNTER, GAUGE = "maestro_alerts_total", "maestro_drift_effect"


def settings(gateway: PushGateway) -> PushgatewaySettings:
    host, _, port = gateway.url.removeprefix("http://").partition(":")
    return PushgatewaySettings(host, port)


@pytest.fixture
def pod(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> Callable[..., None]:
    """Makes this process a pod of another name, with other environment of its task."""

    def enter(name: str, **told: str) -> None:
        monkeypatch.setattr(socket, "gethostname", lambda: name)
        for key, value in told.items():
            monkeypatch.setenv(f"MAESTRO_{key.upper()}", value)

    enter(a_name(sweeps=False))
    return enter


def a_name(*, sweeps: bool, other_than: str = "") -> str:
    """A pod's name of one that looks for old groups, or of one that does not."""
    names = (f"ml-pipeline-dag-train-{number}" for number in range(1000))
    return next(name for name in names if metrics.is_sweeper(name) is sweeps and name != other_than)


def measured(**effects: float) -> Measured:
    """A drift of these columns, and an alert."""
    now = measure.begin("drift", "compare")
    measure.count(COUNTER, dataset="shuttle", column="f1", kind="drift")
    for column, effect in effects.items():
        measure.gauge(GAUGE, effect, dataset="shuttle", column=column)
    return now


def test_a_count_arrives_with_its_task_run_and_pod(gateway, pod, environment):
    now = measured()
    measure.count(COUNTER, 2, dataset="shuttle", column="f1", kind="drift")
    metrics.push(now, settings(gateway))
    (sample,) = gateway.samples(COUNTER)
    assert sample.value == 3
    assert sample.labels == {
        "job": "maestro-pod",
        "instance": a_name(sweeps=False),
        "group": "drift",
        "command": "compare",
        "dag_id": "ml_pipeline_dag",
        "task_id": "task",
        "run_id": environment["MAESTRO_RUN_ID"],
        "dataset": "shuttle",
        "column": "f1",
        "kind": "drift",
    }


def test_what_a_person_runs_tells_of_no_task(gateway, pod, monkeypatch):
    monkeypatch.delenv("MAESTRO_DAG_ID")
    metrics.push(measured(f1=0.5), settings(gateway))
    assert (gateway.total(COUNTER), gateway.total(GAUGE)) == (1, 0.5)
    assert not [one for one in gateway.samples() if {"dag_id", "task_id", "run_id"} & one.labels.keys()]


def test_no_pod_overwrites_anothers_count_and_all_add_up(gateway, pod):
    first = a_name(sweeps=False)
    metrics.push(measured(), settings(gateway))
    pod(a_name(sweeps=False, other_than=first))  # a retry, or another index of a mapped task
    metrics.push(measured(), settings(gateway))
    assert gateway.total(COUNTER) == 2
    assert len(gateway.samples(COUNTER)) == 2


def test_a_gauge_is_replaced_by_the_next_run_and_stands_beside_those_of_other_subjects(gateway, pod):
    metrics.push(measured(f1=0.25, f2=-1.0), settings(gateway))
    pod("next", run_id="scheduled__2026-01-02")
    metrics.push(measured(f1=0.125), settings(gateway))
    other = measure.begin("drift", "compare")
    measure.gauge(GAUGE, 0.5, dataset="adult", column="age")
    metrics.push(other, settings(gateway))
    found = {(one.labels["dataset"], one.labels["column"]): one.value for one in gateway.samples(GAUGE)}
    assert found == {("shuttle", "f1"): 0.125, ("adult", "age"): 0.5}, "what was there is what was measured last"
    of_a_pod = [one.labels.get(label) for one in gateway.samples(GAUGE) for label in ("run_id", "instance")]
    assert not any(of_a_pod)


def test_a_number_that_is_none_is_not_pushed(gateway, pod):
    metrics.push(measured(f1=float("nan"), f2=float("inf"), f3=0.0), settings(gateway))
    assert [one.labels["column"] for one in gateway.samples(GAUGE)] == ["f3"]


@pytest.mark.parametrize("run_id", ["manual__2026-01-01T02:00:00+00:00", "with/slash", "Zürich 100 %", "a=b&c?d#e"])
def test_names_arrive_as_they_are(gateway, pod, run_id):
    pod("p", run_id=run_id)
    now = measure.begin("drift", "compare")
    measure.count(COUNTER, dataset='a"b\\c\nd', column="ä", kind="")
    metrics.push(now, settings(gateway))
    (sample,) = gateway.samples(COUNTER)
    assert (sample.labels["dataset"], sample.labels["column"]) == ('a"b\\c\nd', "ä")
    assert sample.labels["run_id"].replace("+", " ") == run_id.replace("+", " ")


def test_a_label_that_is_not_declared_is_an_error_of_the_code():
    with pytest.raises(TypeError, match="maestro_alerts_total has the labels"):
        measure.count(COUNTER, dataset="shuttle")
    with pytest.raises(KeyError):
        measure.count("maestro_unheard_of_total")


def test_names_are_those_that_prometheus_shows():
    """The client adds _total to a counter's name that has none, and people ask for what is declared."""
    for name, metric in METRICS.items():
        assert name.endswith("_total") is (metric.of is None), name
        assert metric.of is None or metric.of in metric.labels, name


def groups(gateway: PushGateway) -> set[str]:
    return {sample.labels["job"] for sample in gateway.samples("push_time_seconds")}


@pytest.mark.parametrize(
    ("age", "left"),
    [(3590, {"maestro-pod", "maestro-newest", "other"}), (3610, {"maestro-newest", "other"}), (700_000, {"other"})],
)
def test_old_groups_go_and_those_of_others_stay(gateway, pod, monkeypatch, age, left):
    from prometheus_client import CollectorRegistry, push_to_gateway

    push_to_gateway(gateway.url, "other", CollectorRegistry())
    pod("p", run_id="a/b")
    metrics.push(measured(f1=0.5), settings(gateway))
    now = time.time()
    monkeypatch.setattr(metrics, "time", lambda: now + age)
    metrics.sweep(gateway.url)
    assert groups(gateway) == left


def test_one_pod_in_some_looks_for_old_groups(gateway, pod, monkeypatch):
    metrics.push(measured(), settings(gateway))
    now = time.time()
    monkeypatch.setattr(metrics, "time", lambda: now + 3700)
    pod(a_name(sweeps=False, other_than=a_name(sweeps=False)))
    metrics.push(measured(), settings(gateway))
    assert gateway.total(COUNTER) == 2
    pod(a_name(sweeps=True))
    metrics.push(measured(), settings(gateway))
    assert gateway.total(COUNTER) == 0, "its own is as old to it as those of the others"
    share = sum(metrics.is_sweeper(f"pod-{number}") for number in range(1000)) / 1000
    assert 0.05 < share < 0.3


# How to ask

# Pods by the minute at which they pushed; each is scraped for two hours, then its group is gone.
PUSHED = {"early": (10, 100), "late": (1500, 20), "retry": (1530, 3)}
NOW = 1600  # minutes; a day before is 160, when `early` was still there


def test_what_pods_counted_in_a_day_is_asked_as_the_documentation_says(tmp_path):
    """A minute a sample. `increase` finds nothing in the same series, which is why it is asked so."""
    (query,) = re.findall(r"^```\n(sum by .*?)```", (ROOT / "docs/operations.md").read_text(), re.MULTILINE | re.DOTALL)
    series = []
    for pod, (minute, records) in PUSHED.items():
        own = f'instance="{pod}", job="maestro-pod", group="g", command="c"'
        for name, value in (("maestro_command_records_total", records), ("push_time_seconds", minute * 60)):
            values = f"_x{minute} {value}x180 stale"
            series.append({"series": f"{name}{{{own}}}", "values": values})
    labels = '{group="g", command="c"}'
    tests = [
        {"expr": query, "eval_time": f"{NOW}m", "exp_samples": [{"labels": labels, "value": 23}]},
        {
            "expr": "sum by (group, command) (increase(maestro_command_records_total[1d]))",
            "eval_time": f"{NOW}m",
            "exp_samples": [{"labels": labels, "value": 0}],
        },
    ]
    file = tmp_path / "test.json"
    file.write_text(json.dumps({"tests": [{"interval": "1m", "input_series": series, "promql_expr_test": tests}]}))
    done = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# What the command line adds


def a_command(monkeypatch: pytest.MonkeyPatch, run: Callable[[], object]) -> None:
    """Has the command line know one command, `test run`."""
    module = ModuleType("test_commands", "Test commands.")
    run.__doc__ = "Runs."
    vars(module)["COMMANDS"] = {"run": (run, lambda parser: None)}
    monkeypatch.setitem(sys.modules, "test_commands", module)
    monkeypatch.setattr(cli, "GROUPS", {"test": "test_commands"})


def raising(error: Exception) -> Callable[[], object]:
    def run() -> object:
        raise error

    return run


@pytest.mark.parametrize(
    ("run", "errors", "records"),
    [
        (lambda: {"rows": 3}, {}, 3),
        (lambda: {"rows": None}, {}, 0),
        (raising(Skip("nothing to do")), {}, 0),
        (raising(Refused("wrong column")), {"refused": 1}, 0),
        (raising(Failure("no bucket")), {"failed": 1}, 0),
        (raising(ZeroDivisionError()), {"crashed": 1}, 0),
        (lambda: {"rows": 3, "share": float("nan")}, {"failed": 1}, 3),
    ],
)
def test_each_command_tells_its_seconds_its_records_and_the_kind_of_its_error(
    gateway, pod, monkeypatch, run, errors, records
):
    a_command(monkeypatch, run)
    begun = time.monotonic()
    cli.main(["test", "run"])
    found = {one.labels["kind"]: one.value for one in gateway.samples(measure.ERRORS)}
    assert found == errors
    assert gateway.total(measure.RECORDS) == records
    assert 0 < gateway.total(measure.SECONDS, group="test", command="run") <= time.monotonic() - begun


def test_a_command_counts_for_itself_alone(gateway, pod, monkeypatch):
    def run() -> object:
        measure.count_records(2)
        measure.count_records(3)
        return {}

    a_command(monkeypatch, run)
    for _ in range(2):
        cli.main(["test", "run"])
    assert gateway.total(measure.RECORDS) == 5


def test_a_pod_that_is_told_of_no_gateway_pushes_nothing_and_does_not_load_the_client(environment):
    assert loaded({}) == {"before": False, "after": False}


def test_the_client_is_loaded_when_the_work_is_done(gateway, environment):
    assert loaded({}) == {"before": False, "after": True}


def loaded(told: dict[str, str]) -> dict[str, bool]:
    """Whether the client library is loaded when a command ends, and after it was pushed what it measured."""
    program = """
import json, sys, types
from mlops import cli
found = {}
module = types.ModuleType("commands", "Commands.")
def run():
    "Runs."
    found["before"] = "prometheus_client" in sys.modules
    return {}
module.COMMANDS = {"run": (run, lambda parser: None)}
sys.modules["commands"] = module
cli.GROUPS["test"] = "commands"
cli.main(["test", "run"])
found["after"] = "prometheus_client" in sys.modules
print(json.dumps(found))
"""
    done = subprocess.run([sys.executable, "-c", program], env={**os.environ, **told}, capture_output=True, check=True)
    found: dict[str, bool] = json.loads(done.stdout)
    return found


# A gateway that is away


@contextmanager
def silent() -> Iterator[int]:
    """One that takes no connection, once its queue is full."""
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        with closing(socket.create_connection(("127.0.0.1", port))):
            yield port


@contextmanager
def mute() -> Iterator[int]:
    """One that takes connections and answers nothing."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield listener.getsockname()[1]


@contextmanager
def closed() -> Iterator[int]:
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    yield port


@contextmanager
def answering(handle: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            handle(self)

        def handle(self) -> None:
            with suppress(ConnectionError):  # who asked has waited for long enough
                super().handle()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server.server_port
        server.shutdown()


def ill(request: BaseHTTPRequestHandler) -> None:
    request.send_error(500)


def slow(request: BaseHTTPRequestHandler) -> None:
    """Never ends, and never lets a socket wait for long."""
    while True:
        request.wfile.write(b"H")
        threading.Event().wait(0.2)


AWAY = {
    "closed": closed,
    "silent": silent,
    "mute": mute,
    "ill": lambda: answering(ill),
    "slow": lambda: answering(slow),
}


@pytest.mark.parametrize("how", AWAY)
def test_a_gateway_that_is_away_costs_two_seconds_and_no_success(pod, environment, monkeypatch, tmp_path, caplog, how):
    a_command(monkeypatch, lambda: {"rows": 3})
    with AWAY[how]() as port:
        monkeypatch.setenv("MAESTRO_PUSHGATEWAY_HOST", "127.0.0.1")
        monkeypatch.setenv("MAESTRO_PUSHGATEWAY_PORT", str(port))
        begun = time.monotonic()
        code = cli.main(["test", "run"])
        took = time.monotonic() - begun
    assert (code, (tmp_path / "termination-log").read_text()) == (0, '{"rows": 3}')
    (said,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "correct global.services.pushgateway" in said.message
    assert took < metrics.PATIENCE + 60, "of which the last is a busy machine's"


def test_the_result_is_handed_back_before_the_gateway_is_asked(pod, environment, monkeypatch, tmp_path):
    """Whatever becomes of the pod meanwhile, its task has ended as the command did."""
    a_command(monkeypatch, lambda: {"rows": 3})
    found = []

    def look(request: BaseHTTPRequestHandler) -> None:
        found.append((tmp_path / "termination-log").read_text())
        request.send_response(200)
        request.end_headers()

    with answering(look) as port:
        monkeypatch.setenv("MAESTRO_PUSHGATEWAY_HOST", "127.0.0.1")
        monkeypatch.setenv("MAESTRO_PUSHGATEWAY_PORT", str(port))
        cli.main(["test", "run"])
    assert found == ['{"rows": 3}']


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 80, "[", "host name"])
def test_a_gateway_that_cannot_be_found_is_told_of_once(pod, caplog, host):
    metrics.push(measured(f1=1.0), PushgatewaySettings(host, "9091"))
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_pod_ends_while_the_gateway_still_answers(environment, tmp_path):
    with answering(slow) as port:
        told = {"MAESTRO_PUSHGATEWAY_HOST": "127.0.0.1", "MAESTRO_PUSHGATEWAY_PORT": str(port)}
        line = [sys.executable, "-m", "mlops", "notify", "send", "--text=a"]
        done = subprocess.run(line, env={**os.environ, **told}, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0
    assert "no answer within 2 s" in done.stderr
