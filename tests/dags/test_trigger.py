"""The trigger against an API server over HTTP: what becomes of a pod becomes of its task."""

import asyncio
import contextlib
import json
import re
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.triggers.base import TaskFailedEvent, TaskSkippedEvent, TaskSuccessEvent, TriggerEvent

from mlops.airflow.internals.supervisor import Supervisor
from mlops.airflow.pods import log as pod_log
from mlops.airflow.pods import trigger, watch
from mlops.airflow.pods.log import PodLog
from mlops.airflow.pods.manifest import TRY
from mlops.airflow.pods.trigger import PodTrigger
from mlops.airflow.pods.watch import PodWatch
from tests.dags.conftest import NAMESPACE, PLATFORM
from tests.dags.fake_kubernetes import FakeKubernetes, timestamp
from tests.kube_apiserver import Namespace

Cluster = FakeKubernetes | Namespace
POD = "dag-task-0123"


class RecordedLog:
    """A logger that keeps what it was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, text: str, *arguments: object) -> None:
        self.lines += (text % arguments if arguments else text).split("\n")

    warning = error = exception = info

    def from_pod(self) -> list[str]:
        return [line for line in self.lines if line.startswith("line ")]


class Run:
    """A trigger at work in the test's event loop."""

    def __init__(self, kubernetes: Cluster, pod_trigger: PodTrigger) -> None:
        self.kubernetes = kubernetes
        self.trigger = pod_trigger
        self.log = RecordedLog()
        self.xcoms: dict[str, Any] = {}
        self.task = asyncio.create_task(self._collect())

    async def _collect(self) -> list[TriggerEvent]:
        return [event async for event in self.trigger.run()]

    async def event(self, timeout: float = 240.0) -> TriggerEvent:
        events = await asyncio.wait_for(self.task, timeout)
        assert len(events) == 1
        return events[0]

    async def failed(self) -> str:
        """The cause of the failure."""
        assert isinstance(await self.event(), TaskFailedEvent)
        return str(self.xcoms["failure"])

    async def until(self, condition: Callable[[], Any]) -> None:
        await asyncio.to_thread(self.kubernetes.wait_for, condition)

    async def kept(self) -> bool:
        """Whether the pod is there, and nothing is about to delete it: a later one has come and gone meanwhile."""
        later = PodTrigger(**{**self.trigger.serialize()[1], "name": "later"})
        later.task_instance = self.trigger.task_instance
        self.kubernetes.refusals.clear()
        self.kubernetes.create(a_pod("later"))
        run = Run(self.kubernetes, later)
        self.kubernetes.exit("later", 0)
        await run.event()
        await self.until(lambda: "later" not in self.kubernetes.pods)
        return POD in self.kubernetes.pods

    async def said(self, *lines: str) -> None:
        end = time.monotonic() + 240
        while not set(lines) <= set(self.log.lines):
            assert time.monotonic() < end, self.log.lines
            await asyncio.sleep(0.01)


Start = Callable[..., Any]


@asynccontextmanager
async def at_work(kubernetes: Cluster, pod_trigger: PodTrigger, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Run]:
    """Runs a trigger for as long as the context lasts."""
    pod_trigger.task_instance = SimpleNamespace(dag_id="d", task_id="t", run_id="r", map_index=-1)
    run = Run(kubernetes, pod_trigger)
    monkeypatch.setattr(PodTrigger, "log", run.log)

    async def aset(key: str, value: Any, **_: Any) -> None:
        run.xcoms[key] = value

    monkeypatch.setattr("airflow.sdk.execution_time.xcom.XCom.aset", aset)
    try:
        yield run
    finally:
        run.task.cancel()
        await asyncio.wait([run.task])


@pytest.fixture
def scenario(kubernetes: FakeKubernetes, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs a coroutine that is given `start`, which makes a pod and its trigger."""
    monkeypatch.setattr(watch, "_BEFORE_DELETION", 0.0)

    @asynccontextmanager
    async def start(pod: bool = True, **options: Any) -> AsyncIterator[Run]:
        if pod:
            kubernetes.create(a_pod())
        settings = {
            "conn_id": "kubernetes_default",
            "namespace": NAMESPACE,
            "name": POD,
            "deferred_at": time.time(),
            "start_by": time.time() + 60,
            "deadline": None,
            "push": True,
            "resume": False,
            **options,
        }
        async with at_work(kubernetes, PodTrigger(**settings), monkeypatch) as run:
            yield run

    def play(story: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
        asyncio.run(story(start))

    return play


def a_pod(name: str = POD) -> dict[str, Any]:
    container = {"name": "base", "image": "localhost/task:1", "resources": PLATFORM["sizes"]["small"]}
    return {
        "metadata": {"name": name, "labels": {TRY: "u", "maestro/size": "small"}},
        "spec": {"nodeName": "node-a", "containers": [container]},
    }


def numbered(first: int, last: int) -> list[str]:
    return [f"line {number}" for number in range(first, last)]


def test_a_success_hands_its_result_on_and_its_pod_is_deleted(kubernetes: FakeKubernetes, scenario: Any) -> None:
    async def story(start: Start) -> None:
        async with start() as run:
            kubernetes.run(POD, log=numbered(0, 5))
            kubernetes.exit(POD, 0, '{"rows": 3}')
            assert isinstance(await run.event(), TaskSuccessEvent)
            assert run.xcoms == {"return_value": {"rows": 3}}
            assert run.log.from_pod() == numbered(0, 5)
            await run.until(lambda: POD not in kubernetes.pods)

    scenario(story)


def test_a_failure_tells_its_cause_and_its_pod_is_kept(kubernetes: FakeKubernetes, scenario: Any) -> None:
    async def story(start: Start) -> None:
        async with start() as run:
            kubernetes.run(POD, log=numbered(0, 3))
            kubernetes.exit(POD, 3, "no bucket")
            assert await run.failed() == "the container exited with 3 (Error): no bucket"
            assert "the container exited with 3 (Error): no bucket" in run.log.lines
            assert run.log.from_pod() == numbered(0, 3)
            assert "return_value" not in run.xcoms
            assert run.xcoms["pod"] == {"name": POD, "node": "node-a", "image": "localhost/task:1"}
            assert await run.kept()

    scenario(story)


def test_exit_code_99_skips_with_the_reason_as_result(kubernetes: FakeKubernetes, scenario: Any) -> None:
    async def story(start: Start) -> None:
        async with start() as run:
            kubernetes.exit(POD, 99, '{"skipped": "too few rows"}')
            assert isinstance(await run.event(), TaskSkippedEvent)
            assert run.xcoms == {"return_value": {"skipped": "too few rows"}}
            await run.until(lambda: POD not in kubernetes.pods)

    scenario(story)


def test_a_fault_of_metrics_fails_no_task(kubernetes: FakeKubernetes, scenario: Any) -> None:
    async def story(start: Start) -> None:
        async with start(metrics={"of": "another release"}) as run:
            kubernetes.exit(POD, 0)
            assert isinstance(await run.event(), TaskSuccessEvent)
            await run.said("the task's metrics are lost")

    scenario(story)


def test_a_task_that_an_earlier_release_deferred_ends_without_metrics(
    kubernetes: FakeKubernetes, scenario: Any
) -> None:
    async def story(start: Start) -> None:
        async with start() as run:
            fields = run.trigger.serialize()[1]
            del fields["metrics"]
            assert PodTrigger(**fields).metrics is None
            kubernetes.exit(POD, 0)
            assert isinstance(await run.event(), TaskSuccessEvent)

    scenario(story)


@pytest.mark.parametrize(("code", "state"), [(0, "success"), (99, "skipped")])
def test_a_task_with_outlets_is_resumed_on_a_worker_once_the_first_one_is_gone(
    kubernetes: FakeKubernetes, scenario: Any, monkeypatch: pytest.MonkeyPatch, code: int, state: str
) -> None:
    monkeypatch.setattr(trigger, "_WORKER_GONE", 1.0)

    async def story(start: Start) -> None:
        async with start(resume=True) as run:
            kubernetes.exit(POD, code, '{"skipped": "x"}')
            event = await run.event()
            assert time.time() >= run.trigger.deferred_at + 1.0
            assert type(event) is TriggerEvent
            cause = "x" if state == "skipped" else ""
            assert event.payload == {"state": state, "cause": cause, "result": {"skipped": "x"}}
            assert run.xcoms == {}

    scenario(story)


def test_a_failure_that_would_come_again_is_handed_to_a_worker_which_fails_the_task_for_good(
    kubernetes: FakeKubernetes, scenario: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trigger, "_WORKER_GONE", 1.0)

    async def story(start: Start) -> None:
        async with start() as run:
            kubernetes.exit(POD, 65, "column f3 is missing")
            event = await run.event()
            assert type(event) is TriggerEvent
            assert (event.payload["state"], event.payload["cause"]) == ("failed", run.xcoms["failure"])
            assert "column f3 is missing" in run.xcoms["failure"]
            assert time.time() >= run.trigger.deferred_at + 1.0
            assert await run.kept()

    scenario(story)


def test_a_log_is_whole_when_it_ends_in_a_burst(kubernetes: FakeKubernetes, scenario: Any) -> None:
    async def story(start: Start) -> None:
        async with start() as run:
            kubernetes.run(POD, log=numbered(0, 10))
            await run.said("line 9")
            kubernetes.say(POD, *numbered(10, 5000))
            kubernetes.exit(POD, 0)
            await run.event()
            assert run.log.from_pod() == numbered(0, 5000)

    scenario(story)


def test_a_broken_log_stream_goes_on_where_it_broke(kubernetes: FakeKubernetes, scenario: Any) -> None:
    async def story(start: Start) -> None:
        async with start() as run:
            kubernetes.run(POD, log=numbered(0, 300))
            await run.said("line 299")
            kubernetes.break_streams()
            kubernetes.say(POD, *numbered(300, 310))
            kubernetes.refuse("log", 503)
            kubernetes.exit(POD, 1, "x")
            await run.failed()
            assert run.log.from_pod() == numbered(0, 310)

    scenario(story)


def test_a_log_that_cannot_be_read_is_told_and_its_pod_kept(
    kubernetes: FakeKubernetes, scenario: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pod_log, "_PATIENCE", 0.0)

    async def story(start: Start) -> None:
        kubernetes.refuse("log", 400, times=9)
        async with start() as run:
            kubernetes.run(POD)
            kubernetes.exit(POD, 0)
            assert isinstance(await run.event(), TaskSuccessEvent)
            assert any("may be missing here" in line and "kubectl" in line for line in run.log.lines)
            assert await run.kept()

    scenario(story)


def test_a_task_past_its_deadline_fails_and_its_pod_is_stopped(kubernetes: FakeKubernetes, scenario: Any) -> None:
    async def story(start: Start) -> None:
        async with start(deadline=time.time() + 5) as run:
            kubernetes.run(POD, log=numbered(0, 2))
            assert "execution timeout" in await run.failed()
            assert run.log.from_pod() == numbered(0, 2)
            assert POD not in kubernetes.pods

    scenario(story)


def test_a_pod_that_is_not_scheduled_in_time_fails_with_the_schedulers_words(
    kubernetes: FakeKubernetes, scenario: Any
) -> None:
    async def story(start: Start) -> None:
        async with start(start_by=time.time() + 5) as run:
            message = "0/1 nodes are available: 1 Insufficient memory."
            kubernetes.status(
                POD,
                conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}],
            )
            assert await run.failed() == f"the container did not start in time: Unschedulable: {message}"
            assert POD not in kubernetes.pods

    scenario(story)


def test_an_image_that_can_never_be_had_fails_at_once(kubernetes: FakeKubernetes, scenario: Any) -> None:
    async def story(start: Start) -> None:
        async with start() as run:
            kubernetes.container(POD, waiting={"reason": "ErrImageNeverPull", "message": "not present"})
            assert await run.failed() == "the container cannot start: ErrImageNeverPull: not present"
            assert POD not in kubernetes.pods

    scenario(story)


def test_a_pull_that_comes_through_within_its_grace_is_no_failure(
    kubernetes: FakeKubernetes, scenario: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = [0.0]
    monkeypatch.setattr(trigger, "time", SimpleNamespace(time=lambda: time.time() + passed[0]))

    async def story(start: Start) -> None:
        async with start(start_by=time.time() + 7200) as run:
            kubernetes.container(POD, waiting={"reason": "ErrImagePull", "message": "registry away"})
            await run.until(lambda: kubernetes.requests["watch"] == 1)
            kubernetes.run(POD, log=["line 0"])
            await run.said("line 0")
            passed[0] = 3600.0
            kubernetes.exit(POD, 0)
            assert isinstance(await run.event(), TaskSuccessEvent)

    scenario(story)


def test_a_task_ends_only_when_its_whole_log_was_read(
    kubernetes: FakeKubernetes, scenario: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow closes a task's log as soon as its trigger is done."""
    order: list[str] = []

    class Reader(Supervisor):
        async def drained(self) -> None:
            order.append("read")

    monkeypatch.setattr(trigger, "supervisor", lambda: Reader(None))
    monkeypatch.setattr(trigger, "wake", lambda: order.append("told"))

    async def story(start: Start) -> None:
        async with start() as run:
            kubernetes.exit(POD, 0)
            await run.event()
            assert order == ["read", "told"]

    scenario(story)


def test_a_pull_that_fails_again_and_again_is_the_cause(
    kubernetes: FakeKubernetes, scenario: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlops.waiting.GRACE", 0.3)

    async def story(start: Start) -> None:
        async with start() as run:
            kubernetes.container(POD, waiting={"reason": "ErrImagePull", "message": "registry away"})
            kubernetes.container(POD, waiting={"reason": "ImagePullBackOff", "message": "back-off"})
            assert await run.failed() == "the container cannot start: ImagePullBackOff: back-off"
            assert POD not in kubernetes.pods

    scenario(story)


def test_a_pod_deleted_by_force_fails_its_task(kubernetes: FakeKubernetes, scenario: Any) -> None:
    async def story(start: Start) -> None:
        async with start() as run:
            kubernetes.run(POD, log=numbered(0, 2))
            await run.said("line 1")
            kubernetes.remove(POD)
            assert "was deleted before the end" in await run.failed()

    scenario(story)


def test_a_deleted_pod_that_ends_well_fails_its_task_though_only_its_last_state_is_seen(
    kubernetes: FakeKubernetes, scenario: Any
) -> None:
    async def story(start: Start) -> None:
        async with start() as run:
            kubernetes.run(POD, log=numbered(0, 2))
            await run.said("line 1")
            kubernetes.end_as_asked(POD)
            assert "was deleted while it ran (exit code 0)" in await run.failed()

    scenario(story)


def test_a_pod_that_was_gone_before_the_trigger_began_fails_its_task(kubernetes: FakeKubernetes, scenario: Any) -> None:
    async def story(start: Start) -> None:
        async with start(pod=False) as run:
            assert "was deleted before the end" in await run.failed()

    scenario(story)


def test_an_eviction_is_the_cause(kubernetes: FakeKubernetes, scenario: Any) -> None:
    async def story(start: Start) -> None:
        async with start() as run:
            kubernetes.run(POD)
            kubernetes.status(POD, phase="Failed", reason="Evicted", message="The node was low on resource: memory.")
            assert "Evicted: The node was low on resource: memory." in await run.failed()

    scenario(story)


def test_a_watch_that_breaks_goes_on(kubernetes: FakeKubernetes, scenario: Any) -> None:
    async def story(start: Start) -> None:
        async with start() as run:
            kubernetes.run(POD)
            await run.until(lambda: kubernetes.requests["watch"] == 1)
            kubernetes.refuse("watch", 500)
            kubernetes.refuse("list", 503)
            with kubernetes.changed:  # so that no open watch tells
                kubernetes.exit(POD, 0, '{"a": 1}')
                kubernetes.break_streams()
            assert isinstance(await run.event(), TaskSuccessEvent)

    scenario(story)


def test_an_end_during_an_outage_of_the_api_is_seen_after_it(kubernetes: FakeKubernetes, scenario: Any) -> None:
    async def story(start: Start) -> None:
        async with start() as run:
            kubernetes.run(POD)
            await run.until(lambda: kubernetes.requests["watch"] == 1)
            kubernetes.refuse("watch", 503)
            kubernetes.refuse("list", 503, times=3)
            kubernetes.refuse("list", 403)
            with kubernetes.changed:  # so that no open watch tells
                kubernetes.exit(POD, 0)
                kubernetes.break_streams()
            assert isinstance(await run.event(), TaskSuccessEvent)

    scenario(story)


def test_a_pod_that_vanished_during_an_outage_is_missed_by_the_next_list(
    kubernetes: FakeKubernetes, scenario: Any
) -> None:
    async def story(start: Start) -> None:
        async with start() as run:
            kubernetes.run(POD, log=numbered(0, 1))
            await run.said("line 0")
            kubernetes.refuse("watch", 503)
            with kubernetes.changed:  # so that no open watch tells
                kubernetes.remove(POD)
                kubernetes.break_streams()
            assert "was deleted before the end" in await run.failed()

    scenario(story)


def test_an_api_that_is_away_when_the_trigger_begins_is_waited_for(kubernetes: FakeKubernetes, scenario: Any) -> None:
    async def story(start: Start) -> None:
        for kind in ("list", "read", "watch"):
            kubernetes.refuse(kind, 503, times=2)
        async with start() as run:
            kubernetes.exit(POD, 0)
            assert isinstance(await run.event(), TaskSuccessEvent)

    scenario(story)


def test_refused_credentials_are_read_again(
    kubernetes: FakeKubernetes, scenario: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlops.airflow.pods.api._LONGEST_PAUSE", 0.1)

    async def story(start: Start) -> None:
        async with start() as run:
            kubernetes.run(POD)
            await run.until(lambda: kubernetes.requests["watch"] == 1)
            kubernetes.token = "second"
            extra = {"kube_config": json.dumps(kubernetes.kubeconfig())}
            connection = json.dumps({"conn_type": "kubernetes", "extra": extra})
            monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", connection)
            kubernetes.break_streams()
            kubernetes.exit(POD, 0, '{"a": 1}')
            assert isinstance(await run.event(), TaskSuccessEvent)

    scenario(story)


def test_a_trigger_that_breaks_fails_its_task_and_stops_its_pod(
    kubernetes: FakeKubernetes, scenario: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(trigger, "outcome", broken)

    async def story(start: Start) -> None:
        async with start() as run:
            kubernetes.run(POD)
            assert await run.failed() == "the trigger broke: RuntimeError: a defect"
            assert POD not in kubernetes.pods

    scenario(story)


def test_a_users_action_deletes_the_pod_unless_the_task_has_ended(kubernetes: FakeKubernetes, scenario: Any) -> None:
    async def story(start: Start) -> None:
        async with start() as run:
            kubernetes.run(POD)
            await run.until(lambda: kubernetes.requests["log"] == 1)
            run.task.cancel()
            await asyncio.wait([run.task])
            await run.trigger.on_kill()
            assert POD not in kubernetes.pods
        async with start() as run:
            kubernetes.exit(POD, 1, "kept")
            await run.failed()
            await run.trigger.on_kill()
            assert await run.kept(), "Airflow cancels a trigger after its own event in the same way"

    scenario(story)


def test_a_hundred_pods_share_one_list_and_one_watch(kubernetes: FakeKubernetes, scenario: Any) -> None:
    async def story(start: Start) -> None:
        async with start() as first:
            names = [f"pod-{number}" for number in range(100)]
            shared = PodWatch.shared("kubernetes_default", NAMESPACE)
            for name in names:
                kubernetes.create(a_pod(name))
            triggers = []
            for name in names:
                other = PodTrigger(**{**first.trigger.serialize()[1], "name": name})
                other.task_instance = first.trigger.task_instance
                triggers.append(Run(kubernetes, other))
            for name in names:
                kubernetes.run(name)
                kubernetes.exit(name, 0)
            events = [await run.event() for run in triggers]
            assert all(isinstance(event, TaskSuccessEvent) for event in events)
            assert (kubernetes.requests["list"], kubernetes.requests["watch"]) == (1, 1)
            assert PodWatch.shared("kubernetes_default", NAMESPACE) is shared

    scenario(story)


def test_finished_pods_are_swept_after_their_time_but_not_while_a_trigger_waits(
    kubernetes: FakeKubernetes, scenario: Any, monkeypatch: pytest.MonkeyPatch, pod_config: Any
) -> None:
    monkeypatch.setattr(watch, "_SWEEP", 0.2)
    monkeypatch.setattr(trigger, "outcome", lambda *_: None)  # so that it waits on
    platform = (pod_config / "platform.yaml").read_text()
    (pod_config / "platform.yaml").write_text(re.sub("failedPodTTL: .*", "failedPodTTL: 2", platform))

    async def story(start: Start) -> None:
        async with start() as run:
            for name in (POD, "old", "young", "runs"):
                if name != POD:
                    kubernetes.create(a_pod(name))
                ended = {"exitCode": 1, "finishedAt": timestamp(time.time() + (60 if name == "young" else -60))}
                kubernetes.container(name, terminated=ended)
                kubernetes.status(name, phase="Running" if name == "runs" else "Failed")
            uid = kubernetes.pods["old"]["metadata"]["uid"]
            await run.until(lambda: kubernetes.deletions)
            kubernetes.create(a_pod("another"))
            kubernetes.container("another", terminated={"exitCode": 1, "finishedAt": timestamp(0)})
            kubernetes.status("another", phase="Failed")
            await run.until(
                lambda: "another" not in kubernetes.pods
            )  # by then the sweep has looked at all of them twice
            assert {name for name, _ in kubernetes.deletions} == {"old", "another"}
            assert kubernetes.deletions[0] == (
                "old",
                {"propagationPolicy": "Background", "preconditions": {"uid": uid}},
            )

    scenario(story)


def test_a_log_is_followed_on_when_its_stream_ends_before_the_container(
    kubernetes: FakeKubernetes, scenario: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pod_log, "_SHORTEST_PAUSE", 0.05)

    async def story(start: Start) -> None:
        async with start() as run:
            kubernetes.run(POD, log=numbered(0, 3))
            await run.said("line 2")
            kubernetes.break_streams()
            kubernetes.say(POD, *numbered(3, 6))
            await run.said("line 5")
            assert not run.task.done()
            assert run.log.from_pod() == numbered(0, 6)

    scenario(story)


def test_a_trigger_can_be_made_again_from_what_it_serializes() -> None:
    settings = {
        "conn_id": "c",
        "namespace": "n",
        "name": "p",
        "deferred_at": 1.0,
        "start_by": 1.5,
        "deadline": None,
        "push": False,
        "resume": True,
        "metrics": {"started": 0.5},
    }
    path, fields = PodTrigger(**settings).serialize()
    assert (path, fields) == ("mlops.airflow.pods.trigger.PodTrigger", settings)


class Lines:
    """An API that only has one log."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines

    async def log(self, *_: object, **__: object) -> AsyncIterator[list[bytes]]:
        yield [f"2026-01-01T00:00:00.{number:09}Z {line}\n".encode() for number, line in enumerate(self.lines)]

    async def patiently(self, call: Callable[[], Coroutine[Any, Any, Any]], _: float) -> Any:
        return await call()


def test_a_log_that_is_still_being_written_when_its_container_has_ended_is_read_to_its_end() -> None:
    whole = [f"line {number}" for number in range(9)]
    stamped = [f"2026-01-01T00:00:00.{number:09}Z {line}\n".encode() for number, line in enumerate(whole)]

    class StillWritten(Lines):
        """Each read finds more, first of all half a line; the third one finds the end, as does each one after it."""

        def __init__(self) -> None:
            super().__init__([])
            self.reads = iter([[*stamped[:4], stamped[4][:-3]], stamped[:7]])

        async def log(self, *_: object, **__: object) -> AsyncIterator[list[bytes]]:
            yield next(self.reads, stamped)

    log = RecordedLog()
    assert asyncio.run(PodLog(StillWritten(), "pod", log, Supervisor(None)).finish()) is None
    assert "\n".join(log.lines).split("\n") == whole


async def read(reader: socket.socket, until: Callable[[], bool]) -> int:
    """Reads as the supervisor does; how many bytes there were."""
    received = 0
    while not until():
        with contextlib.suppress(BlockingIOError):
            received += len(reader.recv(4096))
        await asyncio.sleep(0)
    return received


def test_a_log_waits_for_its_reader_and_another_trigger_may_end_meanwhile() -> None:
    async def story() -> None:
        writer, reader = socket.socketpair()
        reader.setblocking(False)
        supervisor, log = Supervisor(writer.fileno()), RecordedLog()
        log.info = lambda _, text: writer.sendall(text.encode())
        chatty = PodLog(Lines(["x" * 1000] * 1000), "pod", log, supervisor)
        writing = asyncio.create_task(chatty.finish())
        await asyncio.sleep(0.3)
        assert not writing.done(), "nobody reads: the writer must wait instead of blocking the event loop"
        quiet = asyncio.create_task(supervisor.drained())
        received = await read(reader, until=quiet.done)
        assert not writing.done(), "a trigger that is about to end does not wait for a chatty one"
        received += await read(reader, until=lambda: writing.done() and supervisor._unread() == 0)
        assert await writing is None
        assert received == 1000 * 1000 + 1000 - 250, "every line, joined by line feeds in events of four"
        writer.close()
        reader.close()

    asyncio.run(story())
