"""Calls of the stores, which block, beside the event loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from mlops.sensor_trainer.api.errors import ServiceUnavailable

_PATIENCE = 8.0  # seconds; a client gets its answer within 10

P = ParamSpec("P")
T = TypeVar("T")


class BlockingCalls:
    """At most `size` calls at once; the others wait, and none longer than the patience.

    A call that nobody waits for any more goes on in its thread until its own time-out: what it does is done, and asking
    for it again changes nothing.
    """

    def __init__(self, size: int, patience: float = _PATIENCE) -> None:
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="call")
        self._patience = patience

    async def __call__(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What the function returns. Raises ServiceUnavailable where it takes too long."""
        work = asyncio.get_running_loop().run_in_executor(self._threads, lambda: function(*args, **kwargs))
        try:
            return await asyncio.wait_for(work, self._patience)
        except TimeoutError as error:
            detail = (
                f"PostgreSQL did not answer within {self._patience:.0f} s: check that it runs and is not overloaded"
            )
            raise ServiceUnavailable("postgresql", detail) from error

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
