"""The container's log in the task's log, whole: what breaks on the way is read again, and nothing is written twice."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from mlops.airflow.internals.supervisor import Supervisor
from mlops.airflow.pods.api import PodApi
from mlops.airflow.pods.manifest import CONTAINER
from mlops.log_lines import readable

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

_SINGLE = 20  # so many lines at once are an event each, which reads better
_JOINED = 3500  # characters of an event where more come at once: each event carries 250 bytes beside its text
_PATIENCE = 60.0  # seconds over which the rest of a log is asked for
_SETTLING = 0.15  # seconds between the reads that have to agree on where a log ends
_SHORTEST_PAUSE, _LONGEST_PAUSE = 1.0, 10.0  # seconds before a broken stream is opened again
_STAMPED = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.?(\d*)(Z|[+-]\d\d:\d\d) ?(.*)", re.DOTALL)


class Line(NamedTuple):
    """A line of a log.

    second: RFC 3339; time: to the nanosecond. whole: whether it was read with its time and its end; the last line of a
    log that is still being written may be cut anywhere. before: how many lines of the same time stand right before it;
    some container runtimes stamp all that they read at once alike.
    """

    text: str
    second: str
    time: str
    whole: bool = True
    before: int = 0

    @property
    def place(self) -> tuple[str, int]:
        """What orders the lines of one log."""
        return self.time, self.before

    @classmethod
    def of(cls, raw: bytes) -> Line:
        whole = raw.endswith(b"\n")
        text = raw.decode(errors="replace").rstrip("\r\n")
        stamped = _STAMPED.fullmatch(text)
        if stamped is None:
            return cls(text, "", "", whole=False)  # the kubelet's own words, about a log that it cannot read
        second, fraction, zone, rest = stamped.groups()
        return cls(rest, second + zone, f"{second}.{fraction:0<9}", whole)

    def after(self, line: Line) -> Line:
        """This line, read right after another one."""
        return self._replace(before=line.before + 1) if self.time == line.time else self


_NONE = Line("", "", "")  # what stands before each log


class PodLog:
    """Copies one container's log into a task's log."""

    def __init__(self, api: PodApi, pod: str, logger: Logger, reader: Supervisor) -> None:
        self._api = api
        self._pod = pod
        self._logger = logger
        self._reader = reader
        self._last = _NONE  # the last line that was written
        self._cut: Line | None = None  # the one after it, if it was read without its end
        self._following: asyncio.Task[None] | None = None

    def follow(self) -> None:
        """Begins to write lines as they come; a second call changes nothing."""
        if self._following is None:
            self._following = asyncio.create_task(self._follow())

    async def finish(self) -> str | None:
        """Writes what is left once the container has ended. None, or why the log is not complete."""
        await self.stop()
        try:
            await self._rest()
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return None

    async def _rest(self) -> None:
        """Reads until two reads in a row agree on the end.

        The container runtime tells of a container's end a moment before it has written all of its output.
        """
        end: tuple[Line, Line | None] | None = None
        while end != (end := await self._api.patiently(self._copy_to_its_end, _PATIENCE)):
            await asyncio.sleep(_SETTLING)
        if self._cut is not None:
            await self._reader.ready()
            self._logger.info("%s", readable(self._cut.text))

    async def _copy_to_its_end(self) -> tuple[Line, Line | None]:
        await self._copy(follow=False)
        return self._last, self._cut

    async def stop(self, grace: float = 0.0) -> None:
        """Ends the following, `grace` seconds from now where it does not end by itself."""
        if self._following is not None:
            if grace:
                await asyncio.wait([self._following], timeout=grace)
            self._following.cancel()
            await asyncio.wait([self._following])

    async def _follow(self) -> None:
        pause = _SHORTEST_PAUSE
        while True:
            try:
                # Its end is not always the container's: a kubelet that starts again ends a stream just so.
                await self._copy(follow=True)
            except Exception as error:
                if not await self._api.passing(error):
                    return  # there is no log, or not yet: finish() asks again and tells
            await asyncio.sleep(pause)
            pause = min(_LONGEST_PAUSE, pause * 2)

    async def _copy(self, *, follow: bool) -> None:
        """Writes the lines after the last one that was written."""
        resumed, previous, self._cut = self._last, _NONE, None
        stream = self._api.log(self._pod, CONTAINER, follow=follow, since=resumed.second or None)
        async with contextlib.aclosing(stream) as chunks:
            async for raw_lines in chunks:
                lines = [previous := Line.of(raw).after(previous) for raw in raw_lines]
                self._cut = next((line for line in lines if not line.whole), None)
                for event in _events([line for line in lines if line.whole and line.place > resumed.place]):
                    await self._reader.ready()
                    self._logger.info("%s", "\n".join(readable(line.text) for line in event))
                    # What was written to two streams at once may stand in the log a little out of order.
                    self._last = max(self._last, *event, key=lambda line: line.place)


def _events(lines: Sequence[Line]) -> Iterator[Sequence[Line]]:
    """The lines of each event in turn: one where few came at once, and as many as one round reads where many did."""
    event: list[Line] = []
    room = 0 if len(lines) <= _SINGLE else _JOINED
    for line in lines:
        event.append(line)
        if sum(len(part.text) for part in event) >= room:
            yield event
            event = []
    if event:
        yield event
