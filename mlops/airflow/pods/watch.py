"""One list and one watch for all of the platform's pods in a namespace, shared by every trigger of a process."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import random
import time
from collections.abc import Coroutine, Iterable, Iterator
from typing import Any, ClassVar

from mlops.airflow.internals.wakeup import wake
from mlops.airflow.platform import Platform
from mlops.airflow.pods.api import ApiError, JsonObject, PodApi
from mlops.airflow.pods.manifest import TRY
from mlops.airflow.pods.state import PodState

_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0  # seconds before a broken watch is opened again
_SWEEP = 60.0  # seconds between two looks for pods that were kept long enough
# A success is deleted after a while: should this process die before Airflow has stored the event, the next one
# finds the pod and the same end.
_BEFORE_DELETION = 2.0  # seconds
_UNCLAIMED = 3.0  # seconds for which a new pod's trigger is asked for; it may belong to another triggerer
_ASK_AGAIN = 0.1  # seconds

log = logging.getLogger(__name__)


class Waiter:
    """What one trigger knows of its pod. Only the latest state counts: older ones are passed over.

    A pod that is gone stays gone, whatever is made anew under its name.
    """

    def __init__(self) -> None:
        self.pod: PodState | None = None
        self.gone = False
        self._changed = asyncio.Event()

    def tell(self, pod: PodState | None, *, gone: bool = False) -> None:
        another = pod is not None and self.pod is not None and pod.uid != self.pod.uid
        self.gone = self.gone or gone or another
        if not another:
            self.pod = pod or self.pod
        self._changed.set()

    async def changed(self, timeout: float) -> None:
        """Returns at the next change, at the latest after `timeout` seconds."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), timeout)
        self._changed.clear()


class PodWatch:
    """Tells each waiter every change of its pod, and sweeps the pods that were kept for people to look at."""

    _shared: ClassVar[dict[tuple[str, str], PodWatch]] = {}

    def __init__(self, api: PodApi) -> None:
        self.api = api
        self._known: dict[str, PodState] = {}
        self._waiters: dict[str, Waiter] = {}
        self._unclaimed: dict[str, float] = {}  # new pods without a trigger here -> when they were seen first
        self._tasks: set[asyncio.Task[None]] = set()
        self._spawn(self._run())
        self._spawn(self._sweep())

    @classmethod
    def shared(cls, conn_id: str, namespace: str) -> PodWatch:
        """The watch of this process; it runs from now on for as long as the process does."""
        watch = cls._shared.get((conn_id, namespace))
        if watch is None or watch.api.loop is not asyncio.get_running_loop():
            watch = cls._shared[conn_id, namespace] = cls(PodApi(conn_id, namespace))
        return watch

    @contextlib.contextmanager
    def waiting(self, name: str) -> Iterator[Waiter]:
        """A waiter for the pod, told at once what is known of it."""
        waiter = self._waiters[name] = Waiter()
        self._unclaimed.pop(name, None)
        if name in self._known:
            waiter.tell(self._known[name])
        try:
            yield waiter
        finally:
            if self._waiters.get(name) is waiter:
                del self._waiters[name]

    async def look(self, name: str) -> str | None:
        """Asks for a pod that the watch has not shown: it was deleted unseen, or the watch has just begun.

        None, or what kept the API from answering for now.
        """
        try:
            pod = await self.api.read(name)
        except Exception as error:
            if await self.api.passing(error):
                return f"{type(error).__name__}: {error}"
            raise
        if name not in self._known:
            if pod is None:
                self._vanished(name)
            else:
                self._seen(PodState.of(pod))
        return None

    def delete_soon(self, name: str) -> None:
        """Deletes the pod a little later, whatever becomes of the caller."""
        self._spawn(self._delete(name, _BEFORE_DELETION))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        # In a context of its own: Airflow binds the trigger to the caller's, and would file our log under that task.
        task = self.api.loop.create_task(work, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _delete(self, name: str, delay: float) -> None:
        await asyncio.sleep(delay)
        try:
            await self.api.delete(name)
        except Exception as error:
            log.warning("pod %s is left for the sweep, it could not be deleted: %s", name, error)

    async def _run(self) -> None:
        version: str | None = None
        pause = _SHORTEST_PAUSE
        while True:
            try:
                if version is None:
                    version = await self._list()
                async with contextlib.aclosing(self.api.watch(TRY, version)) as events:
                    async for event in events:
                        version = event["object"]["metadata"]["resourceVersion"]
                        self._take(event)
                        pause = _SHORTEST_PAUSE
                await asyncio.sleep(_SHORTEST_PAUSE)  # in case something ends each watch at once
            except Exception as error:
                # Expired (410), refused, broken or not understood: a new list is right after all of them.
                version = None
                if not (isinstance(error, ApiError) and error.status == 410):
                    await self.api.passing(error)
                    log.warning("the watch of pods broke, listing again: %s: %s", type(error).__name__, error)
                await asyncio.sleep(pause * random.uniform(0.7, 1.3))
                pause = min(_LONGEST_PAUSE, pause * 2)

    async def _list(self) -> str:
        before = set(self._known)  # a pod that is told of while the list is under way must not count as vanished
        listed = await self.api.pods(TRY)
        pods = {pod.name: pod for pod in map(self._state, listed["items"])}
        for name in before - pods.keys():
            self._vanished(name)
        for pod in pods.values():
            self._seen(pod)
        version: str = listed["metadata"]["resourceVersion"]
        return version

    def _take(self, event: JsonObject) -> None:
        if event["type"] == "BOOKMARK":
            return
        pod = self._state(event["object"])
        if event["type"] == "DELETED":
            self._vanished(pod.name, pod)
            return
        if event["type"] == "ADDED" and pod.name not in self._waiters:
            self._expect_trigger(pod.name)
        self._seen(pod)

    def _state(self, pod: JsonObject) -> PodState:
        return PodState.of(pod, self._known.get(pod["metadata"]["name"]))

    def _seen(self, pod: PodState) -> None:
        self._known[pod.name] = pod
        if pod.name in self._waiters:
            self._waiters[pod.name].tell(pod)

    def _vanished(self, name: str, last: PodState | None = None) -> None:
        last = last or self._known.get(name)
        self._known.pop(name, None)
        self._unclaimed.pop(name, None)
        if name in self._waiters:
            self._waiters[name].tell(last, gone=True)

    def _expect_trigger(self, name: str) -> None:
        asking = bool(self._unclaimed)
        self._unclaimed[name] = time.monotonic()
        if not asking:
            self._spawn(self._ask_for_triggers())

    async def _ask_for_triggers(self) -> None:
        while self._unclaimed:
            wake()
            await asyncio.sleep(_ASK_AGAIN)
            now = time.monotonic()
            self._unclaimed = {name: since for name, since in self._unclaimed.items() if now - since < _UNCLAIMED}

    async def _sweep(self) -> None:
        """Deletes finished pods after their time.

        The first look comes late, so that the triggers of a process that has just started claim their pods first.
        """
        while True:
            await asyncio.sleep(_SWEEP)
            try:
                kept = Platform.load().failed_pod_ttl
                for pod in overdue(self._known.values(), time.time(), kept):
                    if pod.name not in self._waiters:
                        await self.api.delete(pod.name, pod.uid)
            except Exception as error:
                log.warning("finished pods are swept again in %.0f s: %s", _SWEEP, error)


def overdue(pods: Iterable[PodState], now: float, kept: float) -> list[PodState]:
    """The pods that came to their end more than `kept` seconds ago."""
    return [pod for pod in pods if pod.finished is not None and now - pod.finished > kept]
