"""How a pod's state is read."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.airflow.pods.outcome import failed, not_started, outcome, vanished, waiting_problem
from mlops.airflow.pods.state import PodState
from mlops.airflow.pods.watch import overdue
from mlops.log_lines import as_json
from mlops.result import EXIT_SKIPPED, LIMIT
from tests.dags.fake_kubernetes import timestamp

NOW = 1_800_000_000.0


def pod(
    status: dict[str, Any] | None = None,
    *,
    deleted_at: float | None = None,
    grace: float = 30.0,
    before: PodState | None = None,
) -> PodState:
    """A pod that was created a minute ago; `deleted_at` is when its deletion was asked for.

    before: what was known of it until then.
    """
    metadata = {
        "name": "p",
        "uid": "u",
        "creationTimestamp": timestamp(NOW - 60),
        "labels": {"maestro/size": "small"},
    }
    if deleted_at is not None:
        metadata |= {"deletionTimestamp": timestamp(deleted_at + grace), "deletionGracePeriodSeconds": grace}
    spec = {"nodeName": "node-1", "containers": [{"name": "base", "resources": {"limits": {"memory": "512Mi"}}}]}
    return PodState.of({"metadata": metadata, "spec": spec, "status": status or {}}, before)


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


times = st.integers(-90, 90).map(lambda seconds: timestamp(NOW + seconds))
words = st.sampled_from(["", "Error", "Completed", "OOMKilled", "Evicted", "ErrImagePull", "NodeLost"])
RESULTS = ["", " ", '{"rows": 3}']
messages = st.sampled_from([*RESULTS, "[1]", "text", '{"skipped": "why"}', '{"skipped": ""}', '{"skipped": 1}'])
exits = st.just({}) | st.fixed_dictionaries(
    {
        "exitCode": st.sampled_from([0, 0, 0, 1, 65, 99, 137, 143]) | st.integers(-1, 256),
        "message": st.none() | messages,
        "finishedAt": st.none() | times,
    },
    optional={"reason": words, "startedAt": st.none() | times},
)
terminations = st.fixed_dictionaries({"terminated": exits})
states = st.one_of(
    terminations,
    st.just({}),
    st.just({"running": {}}),
    st.fixed_dictionaries({"waiting": st.fixed_dictionaries({}, optional={"reason": words, "message": words})}),
)
conditions = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["DisruptionTarget", "PodScheduled"]),
        "status": st.sampled_from(["True", "False"]),
        "reason": words,
        "message": words,
        "lastTransitionTime": st.none() | times,
    },
)
bases = st.fixed_dictionaries({"name": st.just("base"), "state": terminations | states})
sidecars = st.fixed_dictionaries({"name": st.just("sidecar")}, optional={"state": states})
limits = st.fixed_dictionaries({}, optional={"limits": st.none() | st.just({"memory": "1Gi"})})
specs = st.fixed_dictionaries({"name": st.sampled_from(["base", "other"])}, optional={"resources": limits})
# The name, the UID and the time of its creation are what the API server itself gives to each pod.
pods = st.fixed_dictionaries(
    {
        "metadata": st.fixed_dictionaries(
            {"name": st.just("p"), "uid": st.just("u"), "creationTimestamp": times},
            optional={
                "labels": st.just({}),
                "deletionTimestamp": times,
                "deletionGracePeriodSeconds": st.sampled_from([0, 1, 30]),
            },
        )
    },
    optional={
        "spec": st.fixed_dictionaries(
            {}, optional={"nodeName": st.just("n"), "containers": st.lists(specs, max_size=2)}
        ),
        "status": st.fixed_dictionaries(
            {},
            optional={
                "phase": st.sampled_from(["Pending", "Running", "Succeeded", "Failed", "Unknown"]),
                "reason": words,
                "message": words,
                "conditions": st.none() | st.lists(conditions, max_size=2),
                "containerStatuses": st.one_of(
                    st.tuples(bases), st.tuples(sidecars, bases), st.tuples(sidecars), st.none(), st.just([])
                ),
            },
        ),
    },
)


def succeeded(found: dict[str, Any]) -> bool:
    """Whether the pod's JSON shows that its work was done: put as a reader of the API's reference would."""
    metadata, status = found["metadata"], found.get("status", {})
    statuses = {each["name"]: each.get("state", {}) for each in status.get("containerStatuses") or []}
    ended = statuses.get("base", {}).get("terminated")
    if ended is None or ended.get("exitCode") != 0 or (ended.get("message") or "") not in RESULTS:
        return False
    if status.get("phase") == "Failed" and status.get("reason"):
        return False
    if "deletionTimestamp" not in metadata:
        return True
    if not ended.get("finishedAt"):
        return False
    grace = timedelta(seconds=metadata.get("deletionGracePeriodSeconds", 0))
    if not grace:
        return False  # by then the API server has forgotten when the deletion was asked for
    asked = datetime.fromisoformat(metadata["deletionTimestamp"]) - grace
    return datetime.fromisoformat(ended["finishedAt"]) < asked


@given(pods, st.integers(-200, 200))
def test_whatever_a_pod_looks_like_only_work_that_was_done_is_a_success(found: dict[str, Any], later: int) -> None:
    state = PodState.of(found)
    end = outcome(state, NOW + later)
    for judged in (end, vanished(state)):
        if judged is not None:
            assert (judged.state == "success") == succeeded(found)
            assert judged.state == "success" or judged.cause.strip(), "a failure and a skip have a cause in words"
            assert judged.state != "skipped" or state.container["terminated"]["exitCode"] == EXIT_SKIPPED
    if end is None:
        assert "terminated" not in state.container
        assert state.status.get("phase") != "Failed"
    blocked = waiting_problem(state)
    assert blocked is None or (blocked[0] in not_started(state) and not state.started)
    assert not_started(state).strip()
    assert (state.finished is not None) == (state.status.get("phase") in ("Succeeded", "Failed"))


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


def test_the_base_container_decides_whatever_stands_beside_it() -> None:
    beside = {"name": "proxy", "state": {"terminated": {"exitCode": 0}}}
    running = {"containerStatuses": [beside, {"name": "base", "state": {"running": {}}}], "phase": "Running"}
    assert outcome(pod(running), NOW) is None
    status = terminated(1, "why", "Error")
    status["containerStatuses"].insert(0, beside)
    assert "exited with 1" in cause(pod(status))


def test_only_exit_code_99_skips() -> None:
    assert "exited with 1 " in cause(pod(terminated(1, '{"skipped": "f1 below 0.8"}', "Error")))


def test_a_success_need_not_have_a_result() -> None:
    end = outcome(pod(terminated(0)), NOW)
    assert end is not None
    assert (end.state, end.result) == ("success", None)


@pytest.mark.parametrize("message", ["done", "[1, 2]", '{"rows": '])
def test_a_result_that_is_not_a_json_object_fails_the_task(message: str) -> None:
    assert "not a JSON object" in cause(pod(terminated(0, message)))


@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT])
def test_a_result_may_be_as_long_as_the_kubelet_lets_it(size: int) -> None:
    message = '{"a": "' + "x" * (size - 9) + '"}'
    assert len(message) == size
    end = outcome(pod(terminated(0, message)), NOW)
    assert end is not None
    assert end.result == {"a": "x" * (size - 9)}


# The kubelet cuts at a byte: what is left of a character of up to four bytes is not told.
@pytest.mark.parametrize(("size", "said"), [(LIMIT - 4, False), (LIMIT - 3, True), (LIMIT, True)])
@pytest.mark.parametrize("character", ["x", "é"])
def test_a_result_that_was_cut_says_so(size: int, said: bool, character: str) -> None:
    message = '{"a": "'
    message = message.ljust(7 + (size - 7) % len(character.encode()), "x")
    message += character * ((size - len(message)) // len(character.encode()))
    assert len(message.encode()) == size
    assert ("cut at 4096 bytes" in cause(pod(terminated(0, message)))) == said


def test_exit_code_99_with_a_reason_skips() -> None:
    end = outcome(pod(terminated(99, '{"skipped": "f1 below 0.8"}', "Error")), NOW)
    assert end is not None
    assert (end.state, end.cause, end.result) == ("skipped", "f1 below 0.8", {"skipped": "f1 below 0.8"})


@pytest.mark.parametrize(("code", "again"), [(1, True), (64, True), (65, False), (66, True), (137, True), (143, True)])
def test_only_exit_code_65_is_not_worth_another_try(code: int, again: bool) -> None:
    end = outcome(pod(terminated(code, "why", "Error")), NOW)
    assert end is not None
    assert (end.state, end.retry) == ("failed", again)


@pytest.mark.parametrize("message", ["some log line", '{"skipped": ""}', '{"skipped": null}', "[]"])
def test_exit_code_99_without_a_reason_is_a_failure(message: str) -> None:
    assert "exited with 99" in cause(pod(terminated(99, message, "Error")))


def test_the_last_words_of_a_container_are_the_cause() -> None:
    assert cause(pod(terminated(3, "no bucket\n", "Error"))) == "the container exited with 3 (Error): no bucket"
    assert cause(pod(terminated(3, "x" * 3000 + "y" * 1000, "Error"))).endswith("(Error): " + "y" * 1000)


@pytest.mark.parametrize(("code", "signal"), [(137, "SIGKILL"), (139, "SIGSEGV"), (143, "SIGTERM")])
def test_a_signal_is_a_failure_and_named(code: int, signal: str) -> None:
    assert cause(pod(terminated(code, reason="Error"))) == f"the container exited with {code} (Error, {signal})"


def test_out_of_memory_says_the_limit_and_the_remedy() -> None:
    assert cause(pod(terminated(137, reason="OOMKilled"))) == (
        'out of memory: the container was killed at its limit of 512Mi (size="small"): '
        "give the task a larger size=, or raise taskSizes.small in the values"
    )


def test_an_eviction_is_named_with_the_kubelets_words() -> None:
    evicted = {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}
    assert "Evicted: The node was low on resource: memory." in cause(pod(evicted))
    assert "Evicted: The node was low" in cause(pod({**terminated(137, reason="Error"), **evicted}))
    assert "no reason was given" in cause(pod({"phase": "Failed"}))


@pytest.mark.parametrize("reason", ["Evicted", "DeadlineExceeded", "Terminated"])
def test_exit_code_0_of_a_pod_that_the_kubelet_ended_is_not_success(reason: str) -> None:
    """A command that ends in order when it is told to has not done its work; the phase alone may be a sidecar's."""
    stopped = {**terminated(0, '{"a": 1}', phase="Failed"), "reason": reason}
    assert f"the pod was stopped: {reason}; the container exited with 0" in cause(pod(stopped))
    end = outcome(pod(terminated(0, '{"a": 1}', phase="Failed")), NOW)
    assert end is not None
    assert end.state == "success"


@pytest.mark.parametrize("asked", [NOW - 5, NOW])
def test_exit_code_0_after_a_deletion_is_not_success(asked: float) -> None:
    """Times are told in whole seconds: within the same one nobody knows what came first."""
    assert "deleted while it ran (exit code 0)" in cause(pod(terminated(0, '{"a": 1}'), deleted_at=asked))


def test_exit_code_0_of_a_deleted_pod_that_tells_no_time_of_its_end_is_not_success() -> None:
    status = terminated(0, '{"a": 1}')
    status["containerStatuses"][0]["state"]["terminated"]["finishedAt"] = None
    assert "deleted while it ran (exit code 0)" in cause(pod(status, deleted_at=NOW + 5))


def test_a_container_that_ended_before_its_pods_deletion_did_succeed() -> None:
    end = outcome(pod(terminated(0, '{"a": 1}'), deleted_at=NOW + 5), NOW + 6)
    assert end is not None
    assert end.state == "success"


RUNNING = {"containerStatuses": [{"name": "base", "state": {"running": {}}}]}
DRAINED = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "drained"}


@pytest.mark.parametrize(
    ("condition", "told"),
    [(DRAINED, True), ({**DRAINED, "status": "False"}, False), ({**DRAINED, "type": "PodScheduled"}, False)],
    ids=["target", "no longer", "another"],
)
def test_who_had_the_pod_deleted_is_told_where_it_is_known(condition: dict[str, str], told: bool) -> None:
    ended = pod(terminated(143, reason="Error", conditions=[condition]), deleted_at=NOW - 5)
    silent = pod({**RUNNING, "conditions": [condition]}, deleted_at=NOW)
    for words in (cause(ended), cause(silent, NOW + 91), vanished(silent).cause):
        assert ("EvictionByEvictionAPI: drained" in words) == told


def test_a_node_that_never_confirms_a_deletion_is_given_up() -> None:
    assert outcome(pod(RUNNING, deleted_at=NOW), NOW + 90) is None
    assert "node node-1 did not confirm its end" in cause(pod(RUNNING, deleted_at=NOW), NOW + 91)
    assert outcome(pod(RUNNING), NOW + 10_000) is None


def test_a_pod_that_is_gone_is_judged_by_its_last_state() -> None:
    assert vanished(pod(terminated(0, '{"a": 1}'))).result == {"a": 1}
    assert "was deleted before" in vanished(pod({"phase": "Running"})).cause
    assert vanished(None).state == "failed"


@pytest.mark.parametrize(
    ("reason", "permanent"),
    [
        ("ErrImageNeverPull", True),
        ("InvalidImageName", True),
        ("ErrImagePull", False),
        ("ImagePullBackOff", False),
        ("ImageInspectError", False),
        ("RegistryUnavailable", False),
        ("CreateContainerConfigError", False),
        ("CreateContainerError", False),
        ("RunContainerError", False),
    ],
)
def test_what_keeps_a_container_from_starting_is_known(reason: str, permanent: bool) -> None:
    assert waiting_problem(pod(waiting(reason, "why"))) == (f"{reason}: why", permanent)


@pytest.mark.parametrize("status", [{}, waiting("ContainerCreating"), waiting("PodInitializing")])
def test_what_is_on_its_way_keeps_nothing_from_starting(status: dict[str, Any]) -> None:
    assert waiting_problem(pod(status)) is None


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
    met = {**condition, "status": "True", "message": "all is well"}
    assert not_started(pod({"phase": "Pending", "conditions": [met]})) == "phase Pending"
    blocked = {**waiting("ImagePullBackOff", "back-off"), "conditions": [condition]}
    assert not_started(pod(blocked)) == "ImagePullBackOff: back-off", "the kubelet comes after the scheduler"
    assert not_started(pod(waiting("ContainerCreating"))) == "ContainerCreating"
    assert not_started(None) == "it was never seen"


@pytest.mark.parametrize(
    ("state", "started"),
    [
        ({}, False),
        ({"waiting": {}}, False),
        ({"running": {}}, True),
        ({"terminated": {"exitCode": 0, "startedAt": timestamp(NOW)}}, True),
        ({"terminated": {"exitCode": 128, "startedAt": None}}, False),
    ],
)
def test_a_container_that_ran_may_have_a_log(state: dict[str, Any], started: bool) -> None:
    assert pod({"containerStatuses": [{"name": "base", "state": state}]}).started is started


@pytest.mark.parametrize("phase", ["Failed", "Succeeded"])
def test_only_pods_that_ended_long_enough_ago_are_overdue(phase: str) -> None:
    ended = pod(terminated(1, phase=phase))
    evicted = pod({"phase": "Failed", "conditions": [{"lastTransitionTime": timestamp(NOW)}]})
    still_runs = pod(terminated(1, phase="Running"))
    assert pod({"phase": "Failed"}).finished == NOW - 60, "of what never ran there is only the time of its creation"
    assert overdue([ended, evicted, still_runs], NOW + 99, kept=100) == []
    assert overdue([ended, evicted, still_runs], NOW + 101, kept=100) == [ended, evicted]


def test_times_are_read_as_utc() -> None:
    metadata = {"name": "p", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"}
    assert PodState.of({"metadata": metadata}).created == datetime(2026, 1, 1, tzinfo=UTC).timestamp()


def test_who_had_a_pod_deleted_is_said_where_it_is_known_and_nothing_where_it_is_not() -> None:
    unseen = (
        "the pod was deleted before the end of its container was seen: by hand, by its node's removal, or by a drain"
    )
    drained = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "a drain"}
    assert vanished(None).cause == vanished(pod()).cause == unseen
    assert vanished(pod({"conditions": [drained]})).cause == f"{unseen}: EvictionByEvictionAPI: a drain"
    ended = terminated(137, "", "Error")
    assert cause(pod(ended, deleted_at=NOW - 5)) == "the pod was deleted while it ran (exit code 137)"


def test_a_deletion_whose_first_request_nobody_saw_was_asked_for_before_everything() -> None:
    """The last request is the kubelet's, two seconds after the container's end: it says nothing of the first."""
    last = {"deleted_at": NOW + 2, "grace": 0.0}
    assert "deleted while it ran (exit code 0)" in cause(pod(terminated(0), **last))
    assert "deleted while it ran (exit code 0)" in cause(pod(terminated(0), before=pod(RUNNING), **last))
    another = replace(pod(terminated(0)), uid="another")
    assert "deleted while it ran (exit code 0)" in cause(pod(terminated(0), before=another, **last))


def test_the_first_request_for_a_deletion_is_not_forgotten_over_the_last() -> None:
    asked = pod(RUNNING, deleted_at=NOW - 1)
    ended = pod(terminated(0), deleted_at=NOW - 1, before=asked)
    for before in (asked, ended):
        last = pod(terminated(0), deleted_at=NOW + 2, grace=0.0, before=before)
        assert last.deletion_asked == NOW - 1
        assert vanished(last).state == "failed"


def test_a_pod_that_ended_before_anybody_asked_for_its_deletion_did_succeed() -> None:
    last = pod(terminated(0, '{"a": 1}'), deleted_at=NOW + 2, grace=0.0, before=pod(terminated(0, '{"a": 1}')))
    assert vanished(last).state == "success"


def test_exit_code_99_after_a_deletion_is_no_skip() -> None:
    status = terminated(99, '{"skipped": "too few rows"}', "Error")
    assert "deleted while it ran (exit code 99)" in cause(pod(status, deleted_at=NOW - 5))
    assert vanished(pod(status, deleted_at=NOW - 5)).state == "failed"


def test_a_failure_is_its_cause() -> None:
    assert failed("why").cause == "why"


def test_last_words_that_are_json_are_told_as_people_read_them() -> None:
    said = as_json("2026-01-01T00:00:00.000Z", "ERROR", "mlops.cli", "no bucket", {"dag_id": "d"}, "Traceback: x")
    found = outcome(pod(terminated(1, f'g_id": "d"}}\n{said}\n', "Error")), NOW)
    assert found is not None
    assert found.cause == (
        'the container exited with 1 (Error): g_id": "d"}\n'
        "2026-01-01T00:00:00.000Z ERROR mlops.cli: no bucket\nTraceback: x"
    )
