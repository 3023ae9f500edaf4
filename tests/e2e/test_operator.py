"""The pod operator on a real cluster: whatever becomes of a pod, its task ends right, says why, leaves no orphan."""

import base64
import json
import subprocess
from pathlib import Path

import pytest

from infrastructure.release import NAMESPACE, kubectl, object_name, selector, wait_until
from tests.e2e.conftest import placed_dags
from tests.e2e.runs import clear, found_pods, pods

FILE = Path(__file__).parent / "dags/operator_faults.py"
FAULTS, KILLS, CRASH = "operator_faults", "operator_kills", "operator_crash"


class Run:
    """One run of a DAG of the file."""

    def __init__(self, services, dag_id):
        self.services, self.dag_id = services, dag_id
        self.run_id = services.airflow.trigger(dag_id)

    def task(self, task_id):
        found = [task for task in self.services.airflow.tasks(self.dag_id, self.run_id) if task["task_id"] == task_id]
        return found[0]

    def outcome(self, task_id):
        """The state in which the task ended, and the number of its last try."""
        task = self.task(task_id)
        return task["state"], task["try_number"]

    def log(self, task_id, try_number=1):
        return self.services.airflow.log(self.dag_id, self.run_id, task_id, try_number)

    def result(self, task_id):
        return self.services.airflow.result(self.dag_id, self.run_id, task_id)

    def pods(self, task_id=None, phase=None):
        """The names of the pods of one task, or of all; those in one phase only, where one is given."""
        return pods(self.run_id, task_id, phase)

    def running_pod(self, task_id):
        return wait_until(lambda: self.pods(task_id, "Running"), 180, f"the pod of {task_id}", 0.2)[0]

    def end(self, seconds=600):
        """Waits for the run's end and returns its state."""

        def state():
            found = self.services.airflow.run(self.dag_id, self.run_id)["state"]
            return found if found in ("success", "failed") else None

        return wait_until(state, seconds, f"the end of {self.dag_id}", 1)

    def ended(self, task_id, seconds=300):
        over = ("success", "failed", "skipped", "upstream_failed")
        return wait_until(lambda: self.task(task_id)["state"] in over, seconds, f"the end of {task_id}", 0.5)

    def clear(self, task_id):
        clear(self.services, self.run_id, self.dag_id, [task_id])

    def assert_no_orphan(self):
        def over():
            return not self.pods(phase="Running") and not self.pods(phase="Pending")

        wait_until(over, 120, f"the end of every pod of {self.dag_id}")


@pytest.fixture(scope="module")
def dag_file(services):
    with placed_dags(services, [FAULTS, KILLS, CRASH], FILE.read_text()):
        yield


@pytest.fixture(scope="module")
def faults(services, dag_file):
    """A finished run of every task that needs nobody to go wrong."""
    run = Run(services, FAULTS)
    assert run.end() == "failed"
    return run


@pytest.fixture(scope="module")
def kills(services, dag_file):
    """A run whose tasks wait to be ended."""
    run = Run(services, KILLS)
    yield run
    run.services.airflow.call("PATCH", f"/dags/{KILLS}/dagRuns/{run.run_id}", json={"state": "failed"})
    run.assert_no_orphan()


def test_a_result_reaches_the_next_task(faults):
    assert faults.result("result") == {"rows": 3, "text": 'a "b"'}
    assert faults.outcome("reads") == ("success", 1)


def test_what_the_kubelet_would_expand_arrives_as_it_was_given(faults):
    assert faults.outcome("literal") == ("success", 1)
    given = ["$(AWS_SECRET_ACCESS_KEY)", "$$(HOME)", "$$", "a$b$", "$(AWS_SECRET_ACCESS_KEY) $$"]
    assert json.dumps(given) in faults.log("literal")


def test_a_succeeded_pod_is_deleted_and_a_failed_one_kept(faults):
    wait_until(lambda: not faults.pods("result"), 60, "the deletion of a succeeded pod")
    assert len(faults.pods("exits_3", "Failed")) >= 2, "one for each try"


def test_a_long_log_is_complete(faults):
    lines = faults.log("long_log").split("\n")
    assert [line for line in lines if line.startswith("line ")] == [f"line {number}" for number in range(1, 20001)]
    assert "the last line" in lines


def test_the_end_of_a_log_that_comes_at_once_is_there(faults):
    log = faults.log("last_words")
    assert "x" * 200_000 in log.replace("\n", "")
    assert "end of it" in log


def test_an_exit_code_fails_each_try_with_its_cause(faults):
    assert faults.outcome("exits_3") == ("failed", 2)
    for try_number in (1, 2):
        assert "exited with 3 (Error): no bucket" in faults.log("exits_3", try_number)


def test_without_last_words_the_log_is_the_cause(faults):
    assert faults.outcome("only_stderr") == ("failed", 1)
    assert "exited with 1 (Error): a cause on stderr" in faults.log("only_stderr")


def test_a_result_that_is_not_json_fails(faults):
    assert faults.outcome("not_json") == ("failed", 1)
    assert "not a JSON object" in faults.log("not_json")


def test_a_retry_succeeds(faults):
    assert faults.outcome("second_try") == ("success", 2)


def test_a_skip_has_its_reason(faults):
    assert faults.outcome("skips") == ("skipped", 1)
    assert faults.result("skips") == {"skipped": "too few rows"}
    assert "skipped: too few rows" in faults.log("skips")


def test_what_would_fail_again_is_not_tried_again(faults):
    assert faults.outcome("refused") == ("failed", 1)
    assert "column f3 is missing" in faults.log("refused")


def test_a_time_out_stops_the_pod(faults):
    state, tries = faults.outcome("times_out")
    assert (state, tries) == ("failed", 1)
    assert "the execution timeout passed" in faults.log("times_out")
    assert "begin" in faults.log("times_out").split("\n")
    assert faults.task("times_out")["duration"] < 60
    wait_until(lambda: not faults.pods("times_out"), 60, "the end of the pod")


def test_out_of_memory_says_the_limit_and_the_remedy(faults):
    assert faults.outcome("out_of_memory") == ("failed", 1)
    assert "out of memory: the container was killed at its limit of" in faults.log("out_of_memory")
    assert "larger size=" in faults.log("out_of_memory")


def test_who_prints_its_environment_shows_no_secret_in_its_log(faults):
    assert faults.outcome("prints_its_environment") == ("success", 1)
    log = faults.log("prints_its_environment")
    assert "AWS_SECRET_ACCESS_KEY=***" in log and "MAESTRO_REDIS_PASSWORD=***" in log
    # Nor any other one of the release, wherever it would come from.
    secrets = json.loads(kubectl("get", "secrets", "-o", "json"))["items"]
    values = [base64.b64decode(value).decode(errors="replace") for s in secrets for value in s.get("data", {}).values()]
    assert not [value[:3] for value in values if 12 <= len(value) <= 100 and value in log]


def test_a_pod_that_no_node_takes_fails_with_the_schedulers_words(faults):
    assert faults.outcome("no_node") == ("failed", 1)
    assert "did not start in time: Unschedulable" in faults.log("no_node")
    assert "nvidia.com/gpu" in faults.log("no_node")
    assert faults.pods("no_node") == []


def test_a_program_that_is_not_there_fails_with_the_name(faults):
    assert faults.outcome("no_program") == ("failed", 1)
    assert "/no/such/program" in faults.log("no_program")


def test_a_task_with_an_outlet_tells_of_its_asset(services, faults):
    assert faults.outcome("outlet") == ("success", 1)
    assert faults.result("outlet") == {"a": 1}
    events = services.airflow.call(
        "GET", "/assets/events", params={"source_dag_id": FAULTS, "source_task_id": "outlet"}
    )
    assert faults.run_id in [event["source_run_id"] for event in events["asset_events"]]


def test_mapped_tasks_have_a_pod_and_a_result_each(services, faults):
    path = f"/dags/{FAULTS}/dagRuns/{faults.run_id}/taskInstances/mapped"
    instances = services.airflow.call("GET", f"{path}/listMapped")["task_instances"]
    assert [instance["state"] for instance in instances] == ["success"] * 3
    entries = [
        services.airflow.call("GET", f"{path}/xcomEntries/return_value", params={"map_index": index})["value"]
        for index in range(3)
    ]
    numbers = [(json.loads(entry) if isinstance(entry, str) else entry)["n"] for entry in entries]
    assert sorted(numbers) == [0, 1, 2]


def test_no_pod_is_left_running(faults):
    faults.assert_no_orphan()


@pytest.mark.parametrize(
    ("task_id", "force"),
    [("deleted", False), ("forced", True), ("ends_well", False)],
    ids=["asked", "forced", "exits 0"],
)
def test_a_deleted_pod_fails_its_try_and_the_next_one_succeeds(kills, task_id, force):
    pod = kills.running_pod(task_id)
    kubectl("delete", "pod", pod, "--wait=false", *(["--grace-period=0", "--force"] if force else []))
    kills.ended(task_id)
    assert kills.outcome(task_id) == ("success", 2)
    assert "was deleted" in kills.log(task_id, 1)


def test_an_evicted_pod_fails_its_try_and_the_next_one_succeeds(kills):
    pod = kills.running_pod("evicted")
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod, "namespace": NAMESPACE},
        "deleteOptions": {"gracePeriodSeconds": 1},
    }
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}/eviction"
    subprocess.run(["kubectl", "create", "--raw", path, "-f", "-"], input=json.dumps(eviction), text=True, check=True)
    kills.ended("evicted")
    assert kills.outcome("evicted") == ("success", 2)
    assert "Evict" in kills.log("evicted", 1)


def test_a_cleared_task_ends_its_pod_before_the_next_one_begins(kills):
    pod = kills.running_pod("cleared")
    kills.clear("cleared")
    together = []

    def over():
        running = found_pods(kills.run_id, "cleared", "Running")
        together.append(len([pod for pod in running if not pod.metadata.deletion_timestamp]))
        return kills.outcome("cleared") == ("success", 2)

    wait_until(over, 180, "the second try", 0.2)
    assert max(together) <= 1
    assert pod not in kills.pods("cleared")


def test_a_task_marked_failed_ends_its_pod(services, kills):
    kills.running_pod("marked")
    path = f"/dags/{KILLS}/dagRuns/{kills.run_id}/taskInstances/marked"
    services.airflow.call("PATCH", path, json={"new_state": "failed"})
    wait_until(lambda: not kills.pods("marked", "Running"), 60, "the end of the pod")
    assert kills.outcome("marked") == ("failed", 1)


@pytest.mark.full
def test_a_killed_triggerer_loses_nothing(services, dag_file):
    run = Run(services, CRASH)
    for number in range(6):
        run.running_pod(f"task_{number}")
    kubectl("delete", "pod", "-l", selector("airflow-triggerer"), "--grace-period=0", "--force", "--wait=false")
    assert run.end() == "success"
    kubectl("rollout", "status", object_name("deployment", "airflow-triggerer"), "--timeout=240s")
    assert [run.outcome(f"task_{number}") for number in range(6)] == [("success", 1)] * 6
    assert [run.result(f"task_{number}") for number in range(6)] == [{"n": number} for number in range(6)]
    run.assert_no_orphan()


@pytest.mark.full
def test_two_triggerers_do_not_disturb_each_other(services, dag_file):
    triggerer = object_name("deployment", "airflow-triggerer")
    before = kubectl("get", triggerer, "-o", "jsonpath={.spec.replicas}")
    kubectl("scale", triggerer, "--replicas=2")
    try:
        kubectl("rollout", "status", triggerer, "--timeout=240s")
        run = Run(services, CRASH)
        assert run.end() == "success"
        assert [run.outcome(f"task_{number}") for number in range(6)] == [("success", 1)] * 6
        run.assert_no_orphan()
    finally:
        kubectl("scale", triggerer, f"--replicas={before}")
