"""Which of the servers behind this one is away."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from mlops.result import Failure

OK = "ok"
LIMIT = 2.0  # seconds for an answer
PATIENCE = 1.5  # seconds that a check may take, so that it is in time to say why


class Readiness:
    """Asks all servers side by side. checks: each raises Failure, in words, where its server is away.

    A server that hangs is not asked again before its last answer, so that probes do not pile up.
    """

    def __init__(self, checks: Mapping[str, Callable[[], object]], limit: float = LIMIT) -> None:
        self._checks, self._limit = checks, limit
        self._threads = ThreadPoolExecutor(len(checks), thread_name_prefix="ready")
        self._asked: dict[str, asyncio.Future[str]] = {}

    async def ask(self) -> dict[str, str]:
        """By server: "ok", or why it is away."""
        answers = await asyncio.gather(*map(self._ask_one, self._checks))
        return dict(zip(self._checks, answers, strict=True))

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _ask_one(self, name: str) -> str:
        asked = self._asked.get(name)
        if asked is None or asked.done():
            loop = asyncio.get_running_loop()
            asked = self._asked[name] = loop.run_in_executor(self._threads, _outcome, self._checks[name])
        done, _ = await asyncio.wait([asked], timeout=self._limit)
        return asked.result() if done else f"no answer within {self._limit:.0f} s"


def _outcome(check: Callable[[], object]) -> str:
    try:
        check()
    except Failure as failure:
        return str(failure)
    return OK
