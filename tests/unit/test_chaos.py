"""What the chaos tests judge by, without a cluster: the ledger, what was left over, the order, the table, the load."""

import ast
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from mlops.stores.object_store import ObjectStore
from tests.chaos import ledger, report
from tests.chaos.faults import COMPONENTS, Release, covers, faults, unhealthy, unsettled
from tests.chaos.ledger import PREFIX, TASKS, Attempt, Instance, Row, TaskPod, Written
from tests.chaos.load import Load
from tests.chaos.order import chosen, drawn
from tests.chaos.placed import copy
from tests.conftest import ROOT
from tests.processes import eventually

WHOLE = {("a", task): Row({"x": Attempt(1.0, 2.0)}, ["x"]) for task in TASKS}
NOW = datetime(2026, 11, 28, tzinfo=UTC)
NAMES = st.sets(st.text("abcdef-", min_size=1, max_size=8), min_size=1, max_size=30)


def entry(key, attempt, at=0.0):
    return Written(PREFIX + key, json.dumps({"attempt": attempt, "at": at, "try": 1}).encode())


def test_a_run_whose_tasks_were_all_done_once_has_nothing_wrong():
    assert ledger.findings({"a": "success"}, WHOLE) == []


def test_a_run_that_says_success_without_the_work_of_a_task_is_told_with_the_task():
    missing = {where: row for where, row in WHOLE.items() if where != ("a", "work_1")}
    begun = WHOLE | {("a", "work_1"): Row({"x": Attempt(1.0)})}
    for rows in (missing, begun):
        assert ledger.findings({"a": "success"}, rows) == ["work_1 of run a was not done, and its run says success"]


@pytest.mark.parametrize("state", ["failed", "running", "asked for"])
def test_a_run_that_did_not_end_well_is_told_and_not_asked_for_its_work(state):
    assert ledger.findings({"a": state}, {}) == [f"run a is {state}"]


def test_work_that_was_done_by_two_tries_is_told_also_of_a_run_that_failed():
    twice = WHOLE | {("a", "last"): Row({"x": Attempt(1.0, 2.0), "y": Attempt(3.0, 4.0)}, ["x", "y"])}
    said = "last of run a was done 2 times, by x, y"
    assert said in ledger.findings({"a": "success"}, twice)
    assert said in ledger.findings({"a": "failed"}, twice)


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        (Attempt(1.0, 2.0), Attempt(3.0, 4.0), False),
        (Attempt(1.0, 3.5), Attempt(3.0, 4.0), True),
        (Attempt(3.0, 4.0), Attempt(1.0, 3.5), True),
        (Attempt(1.0), Attempt(3.0, 4.0), False),  # it was killed
        (Attempt(1.0, 9.0), Attempt(3.0), True),
    ],
)
def test_two_tries_of_a_task_that_ran_at_the_same_time_are_told(first, second, together):
    rows = WHOLE | {("a", "first"): Row({"x": first, "y": second}, ["x"])}
    assert any("ran twice at the same time" in said for said in ledger.findings({"a": "success"}, rows)) == together


def test_rows_are_read_from_what_the_tasks_write_whatever_its_order():
    objects = [
        entry("a/first/ended/x", "x", 5.0),
        entry("a/first/began/y", "y", 7.0),
        entry("a/first/done", "x"),
        entry("a/first/began/x", "x", 1.0),
    ]
    wanted = {("a", "first"): Row({"x": Attempt(1.0, 5.0), "y": Attempt(7.0)}, ["x"])}
    assert ledger.rows(objects) == ledger.rows(objects[::-1]) == wanted
    assert ledger.tried(wanted, ["a"]) == 1
    assert ledger.tried(wanted, ["b"]) == 0


def test_two_versions_of_the_same_work_are_work_done_twice():
    rows = ledger.rows([entry("a/first/done", "x"), entry("a/first/done", "y")])
    assert rows["a", "first"].done == ["x", "y"]


@pytest.mark.parametrize("key", ["a/first", "a/first/other"])
def test_what_no_task_writes_is_refused_by_its_name(key):
    with pytest.raises(ValueError, match=f"{PREFIX}{key} is no entry"):
        ledger.rows([entry(key, "x")])


@pytest.mark.parametrize(
    ("state", "seconds", "left"),
    [
        ("success", 61, True),
        ("success", 59, False),
        ("failed", 3600, True),
        ("running", 3600, False),
        ("deferred", None, False),
        ("up_for_retry", 3600, False),
    ],
)
def test_a_pod_is_left_over_a_minute_after_its_task_instance_has_ended(state, seconds, left):
    where = ("chaos_ledger", "a", "first", -1)
    instance = Instance(state, NOW - timedelta(seconds=seconds) if seconds else None)
    assert ledger.orphans([TaskPod("pod", where)], {where: instance}, NOW) == (["pod"] if left else [])


def test_a_pod_of_which_airflow_knows_nothing_is_left_over():
    assert ledger.orphans([TaskPod("pod", ("d", "r", "t", 2))], {("d", "r", "t", 1): Instance("running", None)}, NOW)


@given(NAMES, st.integers(0, 10**6))
def test_the_seed_alone_decides_the_order_in_which_each_fault_comes_once(names, seed):
    order = drawn(sorted(names), seed)
    assert sorted(order) == sorted(names)
    assert order == drawn(sorted(names, reverse=True), seed)
    assert drawn(names, seed, 1) == drawn(names, seed, 1)


def test_other_seeds_have_other_orders_and_no_more_is_drawn_than_there_is():
    names = [f"fault-{number}" for number in range(12)]
    assert len({tuple(drawn(names, seed)) for seed in range(20)}) > 15
    assert len(set(drawn(names, 3, 4))) == 4
    with pytest.raises(ValueError, match="13 faults cannot be drawn from 12"):
        drawn(names, 3, 13)


def test_an_unknown_fault_is_told_with_those_that_there_are():
    assert chosen(["b", "a"], ["a", "b"]) == ["b", "a"]
    with pytest.raises(ValueError, match=r"no fault is called c: there are a, b"):
        chosen(["a", "c"], ["b", "a"])


def test_each_part_of_the_platform_has_a_fault_and_no_short_one_restarts_all_of_it():
    known = faults(Release((), str, lambda dag_id, run_id: ""))
    assert {f"kill-{component}" for component in COMPONENTS} <= known.keys()
    assert {"kill-kubelet", "kill-containerd", "drain-worker", "redis-flush", "postgresql-restart"} <= known.keys()
    assert {"s3-away", "upgrade", "roll-back", "burst", "rotate-airflow-fernet", "rotate-redis-celery"} <= known.keys()
    short = {name for name, fault in known.items() if fault.short}
    assert not {name for name in short if name.startswith(("rotate", "upgrade", "roll-back"))}


@pytest.mark.parametrize(
    ("name", "component", "covered"),
    [
        ("redis", "redis", True),
        ("redis", "redis-exporter", False),
        ("sensor-trainer", "sensor-trainer-worker", False),
        ("model-server", "model-server-ctr", True),
        ("airflow-worker", "airflow-worker-large", True),
    ],
)
def test_a_fault_kills_the_pods_of_its_component_and_of_those_that_a_release_names_itself(name, component, covered):
    assert covers(name, component) == covered


def test_the_platform_is_settled_when_every_pod_is_there_new_and_ready():
    status = {"readyReplicas": 2, "updatedReplicas": 2, "replicas": 2, "observedGeneration": 3}
    whole = {"metadata": {"name": "w", "generation": 3}, "spec": {"replicas": 2}, "status": status}
    assert unsettled([whole]) == []
    for lacking in ({"readyReplicas": 1}, {"updatedReplicas": 1}, {"replicas": 3}, {"observedGeneration": 2}):
        assert unsettled([whole, {**whole, "status": status | lacking}])[0].startswith("w: ")
    assert unsettled([{**whole, "spec": {"replicas": 0}, "status": {"observedGeneration": 3}}]) == []


def test_the_parts_of_airflow_that_are_not_well_are_named():
    health = {"metadatabase": {"status": "healthy"}, "triggerer": {"status": "unhealthy"}, "other": {"status": None}}
    assert unhealthy(health) == ["triggerer"]


def test_the_table_has_a_line_for_each_fault_and_what_was_found_below_it():
    outcomes = [
        report.Outcome("redis-flush", report.HELD, 12.4, 3, 1, "60 keys"),
        report.Outcome("kill-minio", report.BROKE, findings=["run a is failed"]),
    ]
    header, flush, minio, finding = report.table(outcomes).splitlines()
    assert header.split()[:2] == ["fault", "outcome"]
    assert flush.split() == ["redis-flush", "held", "12", "s", "3", "1", "60", "keys"]
    assert minio.split()[:2] == ["kill-minio", "broke"]
    assert finding.strip() == "run a is failed"
    assert json.loads(json.dumps(report.document(7, outcomes)))["faults"][1]["findings"] == ["run a is failed"]


@pytest.mark.parametrize(
    ("outcomes", "held"),
    [
        ([report.HELD, report.ABSENT], True),
        ([report.HELD, report.BROKE], False),
        ([report.HELD, report.LASTED], False),
        ([report.ABSENT], False),
        ([], False),
    ],
)
def test_a_run_held_when_nothing_was_found_and_something_was_done(outcomes, held):
    assert report.held([report.Outcome("f", outcome) for outcome in outcomes]) == held


def tried(number, *seconds):
    """The program of the tasks, run as a pod runs it; gives the process."""
    where = {"MAESTRO_RUN_ID": "chaos-1", "MAESTRO_TASK_ID": "first", "MAESTRO_TRY_NUMBER": str(number)}
    program = program_of_the_dag().replace("/dev/termination-log", os.devnull)
    return subprocess.Popen([sys.executable, "-c", program, *seconds], env={**os.environ, **where}, cwd=ROOT)


def program_of_the_dag():
    """As it stands in the DAG file, which nothing but Airflow imports."""
    tree = ast.parse((ROOT / "tests/chaos/dags/chaos.py").read_text())
    (found,) = (
        node for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PROGRAM"
    )
    return ast.literal_eval(found.value)


def test_tries_write_the_ledger_that_is_read_and_one_of_them_has_done_the_work(platform):
    killed = tried(1, "600")
    store = ObjectStore(platform.s3, platform.s3.data_bucket)
    eventually(lambda: store.keys("chaos/chaos-1/"))
    killed.kill()
    killed.wait()
    assert [tried(number, "0").wait() for number in (2, 3)] == [0, 0]
    rows = ledger.rows(Written(key, store.read_bytes(key)) for key in store.keys("chaos/chaos-1/"))
    assert rows.keys() == {("chaos-1", "first")}
    row = rows["chaos-1", "first"]
    assert sorted(attempt.ended is None for attempt in row.attempts.values()) == [False, False, True]
    assert ledger.tried(rows, ["chaos-1"]) == 2
    assert len(row.done) == 1
    assert ledger.findings({"chaos-1": "success"}, rows, ["first"]) == []


class Api:
    """Airflow's API: runs by their id, and how often each was asked for; the answers to the first ones are lost."""

    def __init__(self, lost=0):
        self.runs, self.asked, self.lost = {}, [], lost

    def call(self, method, path, json):
        self.asked.append(json["dag_run_id"])
        known = json["dag_run_id"] in self.runs
        self.runs.setdefault(json["dag_run_id"], "running")
        if self.lost:
            self.lost -= 1
            raise requests.ConnectionError("lost")
        if known:
            answer = requests.Response()
            answer.status_code = 409
            raise requests.HTTPError(response=answer)

    def run(self, dag_id, run_id):
        return {"state": self.runs[run_id]}


def test_the_load_keeps_so_many_runs_going_and_begins_none_twice_though_an_answer_was_lost():
    api, load = Api(lost=1), Load("s", 3)
    with pytest.raises(requests.ConnectionError):
        load.go_on(api)
    load.go_on(api)
    assert sorted(api.runs) == ["s-0000", "s-0001", "s-0002"]
    assert api.asked.count("s-0000") == 2
    api.runs["s-0001"] = "success"
    load.go_on(api)
    assert sorted(api.runs) == ["s-0000", "s-0001", "s-0002", "s-0003"]
    assert load.states["s-0001"] == "success"
    assert sorted(load.under_way()) == ["s-0000", "s-0002", "s-0003"]


def test_a_run_that_does_not_end_is_told_in_the_state_that_it_is_in(monkeypatch):
    monkeypatch.setattr("tests.chaos.load.RUN_SECONDS", 0)
    load = Load("s", 1)
    load.states |= {"a": "success", "b": "running"}
    assert load.end_of({"a", "b"}) == {"a": "success", "b": "running"}


def test_the_working_tree_is_copied_as_git_has_it_with_what_is_new_and_without_what_it_ignores(tmp_path):
    def git(*arguments):
        subprocess.run(["git", "-C", tree, *arguments], check=True, capture_output=True)

    tree, target = tmp_path / "tree", tmp_path / "copy"
    (tree / "dags").mkdir(parents=True)
    git("init", "-q")
    (tree / ".gitignore").write_text(".build\n")
    (tree / "dags/a.py").write_text("a")
    (tree / "gone").write_text("gone")
    (tree / "link").symlink_to("dags")
    git("add", ".")
    (tree / "gone").unlink()
    (tree / "dags/new.py").write_text("new")
    (tree / ".build").write_text("built")
    copy(tree, target)
    assert sorted(str(path.relative_to(target)) for path in target.rglob("*") if not path.is_dir()) == [
        ".gitignore",
        "dags/a.py",
        "dags/new.py",
    ]
    assert (target / "link").is_symlink()
