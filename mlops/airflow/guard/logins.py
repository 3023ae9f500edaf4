"""Passwords cannot be tried out: after a few wrong ones the next is not looked at for a while.

Airflow's own limit ([fab] auth_rate_limit) counts at the login page and not at /auth/token, where the API logs in.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlops.airflow.guard.asgi import again, path_of, refusal, whole
from mlops.airflow.guard.bodies import PATIENCE

PATHS = frozenset({"/auth/token", "/auth/token/cli", "/auth/login"})
REMEMBERED = 10_000  # pairs of an address and a name; the oldest are forgotten first
_BODY = 1 << 20  # bytes; Bodies has looked at it


class Logins:
    """Refuses to look at a login after `failures` wrong ones of the same name from the same address.

    pause: seconds until it is looked at again; each further wrong one doubles them, up to 64 times as many. One that is
    right forgets the wrong ones. Counted in this process: of two servers each counts its own.
    """

    def __init__(self, app: ASGIApp, *, failures: int, pause: float, now: Callable[[], float] = time.monotonic) -> None:
        self._app, self._failures, self._pause, self._now = app, failures, pause, now
        self._wrong: OrderedDict[tuple[str, str], tuple[int, float]] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or path_of(scope).rstrip("/") not in PATHS:
            await self._app(scope, receive, send)
            return
        body = await whole(receive, _BODY, PATIENCE)
        who = ((scope.get("client") or ("",))[0], await _name(scope, body, receive))
        count, at = self._wrong.get(who, (0, 0.0))
        left = at + self._waits(count) - self._now()
        if left > 0:
            detail = f"too many wrong logins of this name: try again in {left:.0f} s"
            answer = refusal(HTTPStatus.TOO_MANY_REQUESTS, detail, Retry_After=str(int(left) + 1))
            await answer(scope, receive, send)
            return

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._count(who, wrong=_wrong(message))
            await send(message)

        await self._app(scope, again(body, receive), watched)

    def _waits(self, count: int) -> float:
        beyond = count - self._failures
        return 0.0 if beyond < 0 else self._pause * 2 ** min(beyond, 6)

    def _count(self, who: tuple[str, str], *, wrong: bool | None) -> None:
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


async def _name(scope: Scope, body: bytes, receive: Receive) -> str:
    return str((await fields(scope, body, receive)).get("username", ""))[:256].lower()


async def fields(scope: Scope, body: bytes, receive: Receive) -> dict[str, Any]:
    """What a body of JSON or of a form holds; nothing where it is neither."""
    request = Request(scope, again(body, receive))
    try:
        if "json" in request.headers.get("content-type", "json"):
            found = await request.json()
            return found if isinstance(found, dict) else {}
        return dict(await request.form())
    except Exception:  # noqa: BLE001 - whatever is wrong with it, the application says so
        return {}
