"""How a pod's state is read."""

import time
from typing import Any

import pytest

from mlops.airflow.verdict import PodState, failed, hindrance, not_started, outcome, vanished
from mlops.airflow.watch import overdue
from tests.dags.fake_kubernetes import timestamp

NOW = 1_800_000_000.0


def pod(status: dict[str, Any] | None = None, *, deleted_at: float | None = None, grace: float = 30.0) -> PodState:
    """A pod that was created a minute ago; `deleted_at` is when its deletion was asked for."""
    metadata = {
        "name": "p",
        "uid": "u",
        "creationTimestamp": timestamp(NOW - 60),
        "labels": {"maestro/size": "small"},
    }
    if deleted_at is not None:
        metadata |= {"deletionTimestamp": timestamp(deleted_at + grace), "deletionGracePeriodSeconds": grace}
    spec = {"nodeName": "node-1", "containers": [{"name": "base", "resources": {"limits": {"memory": "512Mi"}}}]}
    return PodState.of({"metadata": metadata, "spec": spec, "status": status or {}})


def terminated(code: int = 0, message: str = "", reason: str = "Completed", **status: Any) -> dict[str, Any]:
    state = {
        "exitCode": code,
        "reason": reason,
        "message": message,
        "startedAt": timestamp(NOW - 30),
        "finishedAt": timestamp(NOW),
    }
    return {"containerStatuses": [{"name": "base", "state": {"terminated": state}}], "phase": "Running", **status}


def waiting(reason: str, message: str = "m") -> dict[str, Any]:
    return {"containerStatuses": [{"name": "base", "state": {"waiting": {"reason": reason, "message": message}}}]}


def cause(state: PodState, now: float = NOW) -> str:
    end = outcome(state, now)
    assert end is not None
    assert end.state == "failed"
    return end.cause


@pytest.mark.parametrize("status", [{}, {"phase": "Pending"}, {"phase": "Running"}, waiting("ContainerCreating")])
def test_a_pod_that_has_not_ended_has_no_outcome(status: dict[str, Any]) -> None:
    assert outcome(pod(status), NOW) is None


def test_exit_code_0_decides_before_the_phase_follows() -> None:
    end = outcome(pod(terminated(0, '{"rows": 3}')), NOW)
    assert end is not None
    assert (end.state, end.result) == ("success", {"rows": 3})


def test_a_success_need_not_have_a_result() -> None:
    end = outcome(pod(terminated(0)), NOW)
    assert end is not None
    assert (end.state, end.result) == ("success", None)


@pytest.mark.parametrize("message", ["done", "[1, 2]", '{"rows": '])
def test_a_result_that_is_not_a_json_object_fails_the_task(message: str) -> None:
    assert "not a JSON object" in cause(pod(terminated(0, message)))


def test_a_result_that_was_cut_says_so() -> None:
    assert "cut at 4096 bytes" in cause(pod(terminated(0, '{"a": "' + "x" * 4089)))


def test_exit_code_99_with_a_reason_skips() -> None:
    end = outcome(pod(terminated(99, '{"skipped": "f1 below 0.8"}', "Error")), NOW)
    assert end is not None
    assert (end.state, end.cause, end.result) == ("skipped", "f1 below 0.8", {"skipped": "f1 below 0.8"})


@pytest.mark.parametrize(("code", "again"), [(1, True), (65, False), (137, True)])
def test_only_exit_code_65_is_not_worth_another_try(code: int, again: bool) -> None:
    end = outcome(pod(terminated(code, "why", "Error")), NOW)
    assert end is not None
    assert (end.state, end.retry) == ("failed", again)


def test_exit_code_99_without_a_reason_is_a_failure() -> None:
    assert "exited with 99" in cause(pod(terminated(99, "some log line", "Error")))


def test_the_last_words_of_a_container_are_the_cause() -> None:
    assert cause(pod(terminated(3, "no bucket", "Error"))) == "the container exited with 3 (Error): no bucket"


def test_a_signal_is_named() -> None:
    assert "137 (Error, SIGKILL)" in cause(pod(terminated(137, reason="Error")))


def test_out_of_memory_says_the_limit_and_the_remedy() -> None:
    assert cause(pod(terminated(137, reason="OOMKilled"))) == (
        'out of memory: the container was killed at its limit of 512Mi (size="small"): '
        "give the task a larger size=, or raise taskSizes.small in the values"
    )


def test_an_eviction_is_named_with_the_kubelets_words() -> None:
    evicted = {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}
    assert "Evicted: The node was low on resource: memory." in cause(pod(evicted))
    assert "Evicted: The node was low" in cause(pod({**terminated(137, reason="Error"), **evicted}))


def test_exit_code_0_after_a_deletion_is_not_success() -> None:
    assert "deleted while it ran (exit code 0)" in cause(pod(terminated(0, '{"a": 1}'), deleted_at=NOW - 5))


def test_a_container_that_ended_before_its_pods_deletion_did_succeed() -> None:
    end = outcome(pod(terminated(0, '{"a": 1}'), deleted_at=NOW + 5), NOW + 6)
    assert end is not None
    assert end.state == "success"


def test_who_had_the_pod_deleted_is_told_where_it_is_known() -> None:
    condition = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "drained"}
    end = pod(terminated(143, reason="Error", conditions=[condition]), deleted_at=NOW - 5)
    assert "EvictionByEvictionAPI: drained" in cause(end)


def test_a_node_that_never_confirms_a_deletion_is_given_up() -> None:
    running = {"containerStatuses": [{"name": "base", "state": {"running": {}}}]}
    assert outcome(pod(running, deleted_at=NOW), NOW + 80) is None
    assert "node node-1 did not confirm its end" in cause(pod(running, deleted_at=NOW), NOW + 91)


def test_a_pod_that_is_gone_is_judged_by_its_last_state() -> None:
    assert vanished(pod(terminated(0, '{"a": 1}'))).result == {"a": 1}
    assert "was deleted before" in vanished(pod({"phase": "Running"})).cause
    assert vanished(None).state == "failed"


@pytest.mark.parametrize(
    ("reason", "hopeless"),
    [
        ("ErrImageNeverPull", True),
        ("InvalidImageName", True),
        ("ErrImagePull", False),
        ("CreateContainerConfigError", False),
    ],
)
def test_what_keeps_a_container_from_starting_is_known(reason: str, hopeless: bool) -> None:
    assert hindrance(pod(waiting(reason, "why"))) == (f"{reason}: why", hopeless)


@pytest.mark.parametrize("status", [{}, waiting("ContainerCreating"), waiting("PodInitializing")])
def test_what_is_on_its_way_is_no_hindrance(status: dict[str, Any]) -> None:
    assert hindrance(pod(status)) is None


def test_the_schedulers_words_tell_why_a_pod_did_not_start() -> None:
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/1 nodes are available: 1 Insufficient memory.",
    }
    assert not_started(pod({"phase": "Pending", "conditions": [condition]})) == (
        "Unschedulable: 0/1 nodes are available: 1 Insufficient memory."
    )
    assert not_started(pod(waiting("ImagePullBackOff", "back-off"))) == "ImagePullBackOff: back-off"
    assert not_started(None) == "it was never seen"


def test_only_pods_that_ended_long_enough_ago_are_overdue() -> None:
    ended = pod(terminated(1, phase="Failed"))
    evicted = pod({"phase": "Failed", "conditions": [{"lastTransitionTime": timestamp(NOW)}]})
    still_runs = pod({"phase": "Running"})
    assert overdue([ended, evicted, still_runs], NOW + 99, kept=100) == []
    assert overdue([ended, evicted, still_runs], NOW + 101, kept=100) == [ended, evicted]


def test_times_are_read_as_utc() -> None:
    assert (
        abs(
            PodState.of({"metadata": {"name": "p", "uid": "u", "creationTimestamp": timestamp()}}).created - time.time()
        )
        < 2
    )


def test_a_failure_is_its_cause() -> None:
    assert failed("why").cause == "why"
