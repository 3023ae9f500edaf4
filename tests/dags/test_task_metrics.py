"""The metrics of a task's end: a worker's code and a triggerer, both real, emit of ours what they do of a stock one."""

import re
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from mlops.airflow.internals.task_metrics import TaskMetrics
from tests.dags.conftest import NAMESPACE, Printed, connect, write_platform
from tests.dags.fake_kubernetes import FakeKubernetes

pytestmark = pytest.mark.timeout(600)  # a dozen tasks and three processes of Airflow, on a machine that does much else

DAG = """
from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import DAG, Asset
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from mlops.airflow.authoring.operator import PodTask

def end(how):
    if how in ("failure", "retry"):
        raise AirflowException(how)
    if how == "refusal":
        raise AirflowFailException(how)
    if how == "skip":
        raise AirflowSkipException(how)

with DAG(dag_id="ends", schedule=None):
    for how in ("success", "failure", "skip", "retry", "refusal", "outlet"):
        options = {
            "retries": 1 if how in ("retry", "refusal") else 0,
            "outlets": [Asset("made")] if how == "outlet" else [],
        }
        PythonOperator(task_id=f"stock_{how}", python_callable=end, op_args=[how], **options)
        PodTask(task_id=f"pod_{how}", arguments=[how], **options)
"""
# Airflow's scheduler is played here: it queues each task, and those again that the triggerer hands back to a worker.
PROGRAM = """
import json, os, subprocess, sys, time
from airflow.api.common.trigger_dag import trigger_dag
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import BundleDagBag, sync_bag_to_db
from airflow.models.dagrun import DagRun
from airflow.sdk.api.datamodels._generated import TaskInstance
from airflow.sdk.configuration import conf
from airflow.sdk.execution_time.supervisor import run_task_in_process
from airflow.sdk.observability import stats
from airflow.sdk.observability.metrics.stats_utils import get_stats_factory
from airflow.utils.session import create_session
from airflow.utils.types import DagRunTriggeredByType
from sqlalchemy import select

DagBundlesManager().sync_bundles_to_db()
bag = BundleDagBag(sys.argv[1], bundle_path=sys.argv[1], bundle_name="dags-folder")
sync_bag_to_db(bag, "dags-folder", None)
trigger_dag("ends", triggered_by=DagRunTriggeredByType.TEST)
dag = bag.dags["ends"]

def states():
    with create_session() as session:
        return {ti.task_id: str(ti.state) for ti in session.scalar(select(DagRun)).task_instances}

def work(task_id):
    with create_session() as session:
        (ti,) = [ti for ti in session.scalar(select(DagRun)).task_instances if ti.task_id == task_id]
        ti.state, ti.try_number = "queued", 1
        names = ("id", "dag_id", "task_id", "run_id", "try_number", "map_index", "dag_version_id")
        told = TaskInstance(**{name: getattr(ti, name) for name in names})
    run_task_in_process(ti=told, task=dag.get_task(task_id))

# As a worker begins; see main() in task_runner.py.
stats.initialize(factory=get_stats_factory(), export_legacy_names=conf.getboolean("metrics", "legacy_names_on"))
for task_id in dag.task_ids:
    work(task_id)
triggerer = subprocess.Popen(
    [sys.executable, "-m", "airflow", "triggerer", "--skip-serve-logs"],
    stdout=subprocess.DEVNULL, stderr=open(os.environ["AIRFLOW_HOME"] + "/triggerer.log", "w"),
)
end = time.monotonic() + 240
while "deferred" in states().values() and triggerer.poll() is None and time.monotonic() < end:
    time.sleep(0.2)
triggerer.terminate()
triggerer.wait()
for task_id, state in states().items():
    if state == "scheduled":
        work(task_id)
print(json.dumps(states()))
"""
EXITS = {"success": 0, "failure": 1, "skip": 99, "retry": 1, "refusal": 65, "outlet": 0}
STATES = {
    "success": "success",
    "failure": "failed",
    "skip": "skipped",
    "retry": "up_for_retry",
    "refusal": "failed",
    "outlet": "success",
}
# By task: each metric that came of it with its tags' names, and its state where it tells one, and how often it came.
Metrics = dict[str, Counter[str]]


@contextmanager
def packets() -> Iterator[tuple[int, list[str]]]:
    """A StatsD server's port, and what arrived there."""
    arrived: list[str] = []

    def listen() -> None:
        while packet := receiver.recv(65536):
            arrived.extend(packet.decode().splitlines())

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        listening = threading.Thread(target=listen)
        listening.start()
        try:
            yield receiver.getsockname()[1], arrived
        finally:
            receiver.sendto(b"", receiver.getsockname())
            listening.join()


@contextmanager
def kubelet(kubernetes: FakeKubernetes) -> Iterator[None]:
    """Ends each pod in the way that its arguments name."""
    ended: set[str] = set()
    stop = threading.Event()

    def run() -> None:
        with kubernetes.changed:
            while not stop.is_set():
                for name in kubernetes.pods.keys() - ended:
                    (how,) = kubernetes.pods[name]["spec"]["containers"][0]["args"]
                    kubernetes.exit(name, EXITS[how], '{"skipped": "nothing to do"}' if how == "skip" else "")
                    ended.add(name)
                kubernetes.changed.wait(1.0)

    running = threading.Thread(target=run)
    running.start()
    try:
        yield
    finally:
        stop.set()
        running.join()


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory, printed_in_its_own_airflow: Printed) -> Iterator[list[str]]:
    """The packets of one end of each kind of each of the two operators."""
    folder = tmp_path_factory.mktemp("airflow")
    (folder / "dags").mkdir()
    (folder / "dags/ends.py").write_text(DAG)
    with pytest.MonkeyPatch.context() as environment, packets() as (port, arrived), FakeKubernetes(NAMESPACE) as server:
        write_platform(folder, environment)
        connect(server, environment)
        for name, value in {"on": True, "host": "127.0.0.1", "port": port, "influxdb_enabled": True}.items():
            environment.setenv(f"AIRFLOW__METRICS__STATSD_{name.upper()}", str(value))
        environment.setenv("AIRFLOW__METRICS__LEGACY_NAMES_ON", "True")
        environment.setenv("AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT", "300")
        with kubelet(server):
            states = printed_in_its_own_airflow(folder, folder / "dags", PROGRAM, str(folder / "dags"))
        log = folder / "triggerer.log"
        assert states == {f"{kind}_{how}": state for how, state in STATES.items() for kind in ("stock", "pod")}, log
        yield list(arrived)


def metrics(sent: list[str], task: str) -> Counter[str]:
    """What came of a task, without its own name and its operator's."""
    found: Counter[str] = Counter()
    for packet in sent:
        series, _, value = packet.partition(":")
        name, *listed = series.split(",")
        tags = dict(tag.split("=") for tag in listed)
        operator = {"stock": "PythonOperator", "pod": "PodTask"}[task.partition("_")[0]]
        if tags.get("task_id") == task or f".{task}." in name:
            state = f" {tags['state']}" if "state" in tags else ""
            plain = re.sub(rf"\b{task}\b", "TASK", name).replace(operator, "OPERATOR")
            found[f"{plain}{{{','.join(sorted(tags))}}}{state}|{value.rpartition('|')[2]}"] += 1
    return found


def hand_over(found: Counter[str]) -> Counter[str]:
    """Those by which a worker hands a task to the triggerer, which a stock one does not do."""
    return Counter({name: count for name, count in found.items() if "deferred" in name})


@pytest.mark.parametrize("how", ["success", "failure", "skip", "retry"])
def test_a_task_that_ends_in_the_triggerer_emits_what_a_stock_one_does_on_a_worker(sent: list[str], how: str) -> None:
    stock, ours = metrics(sent, f"stock_{how}"), metrics(sent, f"pod_{how}")
    assert ours - hand_over(ours) == stock
    names = {"airflow.ti.start{dag_id,task_id}|c", f"airflow.ti.finish{{dag_id,state,task_id}} {STATES[how]}|c"}
    assert names <= stock.keys()
    counted = {"success": "successes", "skip": None}.get(how, "failures")
    if counted is not None:
        names = {f"airflow.ti_{counted}{{dag_id,task_id}}|c", "airflow.task.duration{dag_id,task_id}|ms"}
        assert {*names, f"airflow.operator_{counted}{{dag_id,operator_name,task_id}}|c"} <= stock.keys()


def test_one_that_resumes_on_a_worker_is_counted_once(sent: list[str]) -> None:
    stock, ours = metrics(sent, "stock_outlet"), metrics(sent, "pod_outlet")
    again = Counter({name: 1 for name in ours if "ti.start" in name})  # Airflow's own, of the second worker
    assert ours - hand_over(ours) - again == stock


def test_a_failure_for_good_is_counted_by_us_since_airflow_counts_none(sent: list[str]) -> None:
    stock, ours = metrics(sent, "stock_refusal"), metrics(sent, "pod_refusal")
    failures = {name for name in ours if "_failures" in name}
    assert not [name for name in stock if "_failures" in name], "Airflow counts it now: count_failure can go"
    assert {name: ours[name] for name in failures} == dict.fromkeys(metrics_of_a_failure(sent), 1)


def metrics_of_a_failure(sent: list[str]) -> set[str]:
    return {name for name in metrics(sent, "pod_failure") if "_failures" in name}


def test_the_operators_own_names_come_as_well(sent: list[str]) -> None:
    """They tell no task, so what was above is about those with tags: these are the sums."""
    for kind, count in (("successes", 2), ("failures", 3)):
        names = Counter(packet.split(",")[0].split(":")[0] for packet in sent)
        assert names[f"airflow.operator_{kind}_PodTask"] == count
    assert names["airflow.operator_failures_PythonOperator"] == 2


def test_the_duration_counts_from_the_start_of_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: dict[str, Any] = {}
    monkeypatch.setattr("airflow.observability.stats.incr", lambda name, tags: None)
    monkeypatch.setattr("airflow.observability.stats.timing", lambda name, value, tags: sent.update({name: value}))
    monkeypatch.setattr("time.time", lambda: 1_000_090.0)
    ti: Any = SimpleNamespace(
        start_date=datetime.fromtimestamp(1_000_000, UTC), task=object(), stats_tags={}, max_tries=0, try_number=1
    )
    TaskMetrics(**TaskMetrics.of(ti).as_json()).emit("success")
    assert sent == {"task.duration": 90_000.0}, "milliseconds, as a worker counts them"


@pytest.mark.parametrize(
    ("max_tries", "try_number", "retried"), [(0, 1, False), (1, 1, True), (1, 2, False), (3, 3, True), (3, 4, False)]
)
def test_a_failure_is_tried_again_while_tries_are_left(max_tries: int, try_number: int, retried: bool) -> None:
    ti: Any = SimpleNamespace(
        start_date=datetime.now(UTC), task=object(), stats_tags={}, max_tries=max_tries, try_number=try_number
    )
    assert TaskMetrics.of(ti).retried is retried
