"""Airflow's triggerer hands log lines to its supervisor over a socket, and so does every trigger in it.

The supervisor reads 4 KiB a round, and closes a task's log as soon as its trigger is done. So a trigger must not write
faster than the supervisor reads, which would stop every trigger of the process, and must not finish before the
supervisor has read everything, which would lose the tail.
"""

from __future__ import annotations

import array
import asyncio
import fcntl
import termios
import time
from collections.abc import Callable
from functools import cache

_FULL = 32 * 1024  # bytes that may lie in the socket, which takes about 200 KiB
_POLL = 0.01  # seconds
_PATIENCE = 60.0  # seconds for which the supervisor is waited for


class Supervisor:
    """The socket over which the triggerer's triggers, all together, send their log lines to its supervisor.

    descriptor: None where there is no such socket; then nothing has to wait.
    """

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        self._draining = 0  # triggers that wait for the socket to be empty

    async def ready(self) -> None:
        """Waits until a line can be sent without blocking. Triggers that are about to end go first."""
        await self._until(lambda: self._draining == 0 and self._unread() < _FULL)

    async def drained(self) -> None:
        """Waits until everything that was sent was read."""
        self._draining += 1
        try:
            await self._until(lambda: self._unread() == 0)
        finally:
            self._draining -= 1

    async def _until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + _PATIENCE
        while not condition() and time.monotonic() < end:
            await asyncio.sleep(_POLL)

    def _unread(self) -> int:
        return 0 if self._descriptor is None else _unread(self._descriptor)


@cache
def supervisor() -> Supervisor:
    """The supervisor of this process.

    Airflow keeps the socket in structlog's configuration, which is no interface: should it lie elsewhere one day, logs
    are written without waiting, as by any other trigger.
    """
    import structlog

    try:
        descriptor: int = structlog.get_config()["logger_factory"].io.fileno()
        _unread(descriptor)
    except (AttributeError, KeyError, OSError, ValueError):
        return Supervisor(None)
    return Supervisor(descriptor)


def _unread(descriptor: int) -> int:
    """Bytes that lie in the socket and were not read at its other end."""
    count = array.array("i", [0])
    fcntl.ioctl(descriptor, termios.TIOCOUTQ, count)
    return count[0]
