"""Waits in the triggerer for a pod's end and ends its task there, so that in general no worker takes it up again."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from airflow.triggers.base import (
    BaseTaskEndEvent,
    BaseTrigger,
    TaskFailedEvent,
    TaskSkippedEvent,
    TaskSuccessEvent,
    TriggerEvent,
)

from mlops import waiting
from mlops.airflow.internals.supervisor import supervisor
from mlops.airflow.internals.task_metrics import TaskMetrics
from mlops.airflow.internals.wakeup import wake
from mlops.airflow.pods.log import PodLog
from mlops.airflow.pods.outcome import Outcome, failed, not_started, outcome, vanished, waiting_problem
from mlops.airflow.pods.state import PodState
from mlops.airflow.pods.watch import PodWatch, Waiter

FAILURE_KEY = "failure"  # XCom: the cause of a failure, for callbacks, which Airflow gives no exception here
POD_KEY = "pod"  # XCom: of a failure, the pod that it was in, for who looks for what failures have in common
_RETURN_KEY = "return_value"
# The scheduler hears late of a worker's end. Were the task queued again by then, it would take that for the end
# second worker's end and fail the task (apache/airflow #67287). Events that end a task are not affected.
_WORKER_GONE = 10.0  # seconds
_LAST_WORDS = 1.0  # seconds in which the open stream of a pod that is gone comes to its end
_LOOK_AGAIN = 30.0  # seconds without news after which what depends on the time alone is looked at


class PodTrigger(BaseTrigger):
    """The end of one pod.

    deferred_at: Unix time at which the worker handed the task over. start_by, deadline: Unix times by which the
    container has to run and to have ended; no deadline for None.
    push: whether the result becomes the task's XCom. resume: whether a worker has to end the task even if it succeeds,
    because Airflow does only there what the task asks for (outlets, callbacks on success and on skip).
    metrics: TaskMetrics as JSON, emitted where the task ends here; None for a task that an earlier release deferred.
    """

    def __init__(
        self,
        *,
        conn_id: str,
        namespace: str,
        name: str,
        deferred_at: float,
        start_by: float,
        deadline: float | None,
        push: bool,
        resume: bool,
        metrics: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.conn_id = conn_id
        self.namespace = namespace
        self.name = name
        self.deferred_at = deferred_at
        self.start_by = start_by
        self.deadline = deadline
        self.push = push
        self.resume = resume
        self.metrics = metrics
        self._ended = False
        self._pod: PodState | None = None  # as it was seen last

    def serialize(self) -> tuple[str, dict[str, Any]]:
        fields = ("conn_id", "namespace", "name", "deferred_at", "start_by", "deadline", "push", "resume", "metrics")
        return f"{__name__}.PodTrigger", {name: getattr(self, name) for name in fields}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        watch = PodWatch.shared(self.conn_id, self.namespace)
        try:
            event = await self._event(await self._end(watch))
        except Exception as error:
            # Airflow would fail the task as well, but leave its pod running.
            self.log.exception("the trigger broke, its pod is stopped")
            await self._stop(watch)
            event = await self._event(failed(f"the trigger broke: {type(error).__name__}: {error}"))
        await supervisor().drained()
        # Airflow cancels a trigger after its event in the way in which it tells of a user's action.
        self._ended = True
        self._emit(event)
        yield event
        wake()

    async def on_kill(self) -> None:
        """The task was cleared, marked or deleted by a user."""
        if not self._ended:
            self.log.warning("a user acted on the task: deleting pod %s", self.name)
            await PodWatch.shared(self.conn_id, self.namespace).api.delete(self.name)

    async def _end(self, watch: PodWatch) -> Outcome:
        """Waits for the pod's end, leaves its whole log in the task's, and disposes of the pod."""
        pod_log = PodLog(watch.api, self.name, self.log, supervisor())
        with watch.waiting(self.name) as waiter:
            try:
                end = await self._wait(watch, waiter, pod_log)
                missing = await pod_log.finish() if waiter.pod and waiter.pod.started and not waiter.gone else None
                if waiter.gone:
                    await pod_log.stop(_LAST_WORDS)
            finally:
                await pod_log.stop()
            self._report(end, missing)
            self._pod = pod = waiter.pod
            runs = not waiter.gone and (pod is None or (pod.finished is None and "terminated" not in pod.container))
            if runs:
                await self._stop(watch)
            elif end.state != "failed" and missing is None:
                watch.delete_soon(self.name)
            elif not waiter.gone:
                self.log.info("the pod is kept for a while: kubectl -n %s describe pod %s", self.namespace, self.name)
        return end

    async def _wait(self, watch: PodWatch, waiter: Waiter, pod_log: PodLog) -> Outcome:
        blocked_since: float | None = None
        unanswered: str | None = None
        while True:
            now, pod = time.time(), waiter.pod
            if waiter.gone:
                return vanished(pod)
            if pod is None:
                unanswered = await watch.look(self.name)
                if waiter.pod is not None or waiter.gone:
                    continue
            elif ended := outcome(pod, now):
                return ended
            if pod is not None and pod.started:
                pod_log.follow()
            blocked = waiting_problem(pod) if pod is not None else None
            blocked_since = (blocked_since or now) if blocked else None
            if blocked and (blocked[1] or now >= (blocked_since or now) + waiting.GRACE):
                return failed(f"the container cannot start: {blocked[0]}")
            if self.deadline is not None and now >= self.deadline:
                return failed("the execution timeout passed: the pod was stopped")
            started = pod is not None and pod.started
            if not started and now >= self.start_by:
                return failed(f"the container did not start in time: {unanswered or not_started(pod)}")
            times = [now + _LOOK_AGAIN, self.deadline, None if started else self.start_by]
            times.append(blocked_since + waiting.GRACE if blocked_since else None)
            await waiter.changed(min(at for at in times if at is not None) - now)

    def _report(self, end: Outcome, missing: str | None) -> None:
        if end.state == "failed":
            self.log.error("%s", end.cause)
        elif end.state == "skipped":
            self.log.warning("skipped: %s", end.cause)
        else:
            self.log.info("the container exited with 0; its result: %s", "none" if end.result is None else end.result)
        if missing is not None:
            self.log.warning(
                "the end of the container's log may be missing here (%s); while the pod is kept: kubectl -n %s logs %s",
                missing,
                self.namespace,
                self.name,
            )

    async def _event(self, end: Outcome) -> TriggerEvent:
        if end.state == "failed":
            with contextlib.suppress(Exception):  # it is in the log; without it an alert points there
                await self._push(FAILURE_KEY, end.cause)
                if pod := self._pod:
                    await self._push(POD_KEY, {"name": pod.name, "node": pod.node, "image": pod.image})
            if end.retry:
                return TaskFailedEvent()
        elif not self.resume:
            if self.push and end.result is not None:
                await self._push(_RETURN_KEY, end.result)
            return TaskSkippedEvent() if end.state == "skipped" else TaskSuccessEvent()
        # What is left only a worker can do; to fail a task for good is a part of it.
        await asyncio.sleep(self.deferred_at + _WORKER_GONE - time.time())
        return TriggerEvent({"state": end.state, "cause": end.cause, "result": end.result})

    def _emit(self, event: TriggerEvent) -> None:
        """Emits the task's metrics where it ends here; a fault of theirs fails no task."""
        if self.metrics is not None and isinstance(event, BaseTaskEndEvent):
            try:
                TaskMetrics(**self.metrics).emit(event.task_instance_state)
            except Exception:
                self.log.exception("the task's metrics are lost")

    async def _push(self, key: str, value: Any) -> None:
        """Writes an XCom, not by the event's xcoms: Airflow 3.3 stores those as a string of JSON in JSON."""
        from airflow.sdk.execution_time.xcom import XCom

        task: Any = self.task_instance
        await XCom.aset(
            key,
            value,
            dag_id=task.dag_id,
            task_id=task.task_id,
            run_id=task.run_id,
            map_index=task.map_index,
            # Without its length no mapped task can follow.
            _mapped_length=len(value) if key == _RETURN_KEY and task.map_index < 0 else None,
        )

    async def _stop(self, watch: PodWatch) -> None:
        try:
            await watch.api.delete(self.name)
        except Exception as error:
            self.log.warning("pod %s was not deleted, its own deadline will end it: %s", self.name, error)
