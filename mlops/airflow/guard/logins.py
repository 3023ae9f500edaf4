"""Passwords cannot be tried out: after a few wrong ones the next is not looked at for a while.

Airflow's own limit ([fab] auth_rate_limit) counts at the login page and not at /auth/token, where the API logs in.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from http import HTTPStatus
from weakref import WeakValueDictionary

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlops.airflow.guard.asgi import again, path_of, refusal, whole
from mlops.airflow.guard.fields import Unreadable, fields

PATHS = frozenset({"/auth/token", "/auth/token/cli", "/auth/login"})
REMEMBERED = 10_000  # pairs of an address and a name; the oldest are forgotten first
FORGOTTEN = 24 * 60 * 60.0  # seconds after the last wrong login of a name, of which none counts any more

Who = tuple[str, str]  # address and name


class Logins:
    """Refuses to look at a login after `failures` wrong ones of the same name from the same address.

    pause: seconds until it is looked at again; each further wrong one doubles them, up to 64 times as many. One that is
    right forgets the wrong ones. Counted in this process: of two servers each counts its own. Those of a name that come
    at once are looked at one after the other, or all of them would be before the first is found wrong.
    """

    def __init__(self, app: ASGIApp, *, failures: int, pause: float, now: Callable[[], float] = time.monotonic) -> None:
        self._app, self._failures, self._pause, self._now = app, failures, pause, now
        self._wrong: OrderedDict[Who, tuple[int, float]] = OrderedDict()
        self._turns: WeakValueDictionary[Who, asyncio.Lock] = WeakValueDictionary()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or path_of(scope).rstrip("/") not in PATHS:
            await self._app(scope, receive, send)
            return
        body = await whole(receive)
        try:
            name = str((await fields(scope, body, receive)).get("username", ""))[:256].lower()
        except Unreadable as error:
            await refusal(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))(scope, receive, send)
            return
        who = ((scope.get("client") or ("",))[0], name)
        async with self._turns.setdefault(who, asyncio.Lock()):
            await self._looked_at(who, scope, again(body, receive), send)

    async def _looked_at(self, who: Who, scope: Scope, receive: Receive, send: Send) -> None:
        left = self._left(who)
        if left > 0:
            detail = f"too many wrong logins of this name: try again in {left:.0f} s"
            answer = refusal(HTTPStatus.TOO_MANY_REQUESTS, detail, Retry_After=str(int(left) + 1))
            await answer(scope, receive, send)
            return

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._count(who, wrong=_wrong(message))
            await send(message)

        await self._app(scope, receive, watched)

    def _left(self, who: Who) -> float:
        """Seconds until a login is looked at; below zero where it is now."""
        count, at = self._wrong.get(who, (0, 0.0))
        since = self._now() - at
        if since > FORGOTTEN:
            self._wrong.pop(who, None)
            return 0.0
        return self._waits(count) - since

    def _waits(self, count: int) -> float:
        beyond = count - self._failures
        return 0.0 if beyond < 0 else self._pause * 2 ** min(beyond, 6)

    def _count(self, who: Who, *, wrong: bool | None) -> None:
        if wrong is None:
            return
        count, _ = self._wrong.pop(who, (0, 0.0))
        if wrong:
            self._wrong[who] = (count + 1, self._now())
            if len(self._wrong) > REMEMBERED:
                self._wrong.popitem(last=False)


def _wrong(answer: Message) -> bool | None:
    """Whether the answer says that name or password is wrong; None where it says neither.

    The page answers a wrong login with itself, or leads back to itself.
    """
    status = answer["status"]
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.OK):
        return True
    if status >= HTTPStatus.BAD_REQUEST:
        return None
    return "/login" in Headers(raw=answer["headers"]).get("location", "")
