"""How many requests are worked on at once: as many as the pool has connections for; the others wait for their turn.

A request of Airflow's holds a connection while it waits for a thread, and a thread while it waits for a connection.
With more requests than connections, all of them wait for each other until they time out, and the probes with them.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlops.airflow.guard.asgi import path_of, refusal

PATIENCE = 60.0  # seconds that a request waits for its turn
CONNECTIONS = 2  # that one request takes at the most: of its own session, and of whoever asks what the user may
_TASKS = "/execution/"
# What takes no connection, and what the kubelet asks: it has to hear from a server that has a lot to do.
_ASIDE = ("/api/v2/version", "/api/v2/monitor/health", "/static/")


class Crowd:
    """Lets half of what the pool of `connections` allows be requests of people, and half of tasks.

    A task that cannot say that it lives is taken for dead, so people do not stand in its way. The turn ends where the
    answer begins: a log that is followed holds no connection.
    """

    def __init__(self, app: ASGIApp, *, connections: int, patience: float = PATIENCE) -> None:
        each = max(1, connections // CONNECTIONS // 2)
        self._app, self._patience = app, patience
        self._tasks, self._people = asyncio.Semaphore(each), asyncio.Semaphore(each)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = path_of(scope) if scope["type"] == "http" else ""
        if not path or path.startswith(_ASIDE):
            await self._app(scope, receive, send)
            return
        turn = self._tasks if path.startswith(_TASKS) else self._people
        try:
            async with asyncio.timeout(self._patience):
                await turn.acquire()
        except TimeoutError:
            detail = f"the server has had too many requests for {self._patience:.0f} s: send this one again later"
            await refusal(HTTPStatus.SERVICE_UNAVAILABLE, detail, Retry_After="10")(scope, receive, send)
            return
        held = True

        async def ending(message: Message) -> None:
            nonlocal held
            if message["type"] == "http.response.start" and held:
                held = False
                turn.release()
            await send(message)

        try:
            await self._app(scope, receive, ending)
        finally:
            if held:
                turn.release()
