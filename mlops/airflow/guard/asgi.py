"""What the middlewares share: a request's path, its body as a whole, and an answer that says why."""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope


class TooLarge(Exception):
    """A body has more bytes than it may. more: whether some of them are still to come."""

    def __init__(self, *, more: bool) -> None:
        super().__init__()
        self.more = more


def path_of(scope: Scope) -> str:
    """The path below the address of Airflow's server."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


async def whole(receive: Receive, limit: float = math.inf, patience: float | None = None) -> bytes:
    """The body. Raises TooLarge beyond `limit` bytes, and TimeoutError where it is not in after `patience` seconds.

    Bodies has limited it already for all that is nearer to the application.
    """
    parts, size, more = [], 0, True
    async with asyncio.timeout(patience):
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            more = message.get("more_body", False)
            if size > limit:
                raise TooLarge(more=more)
    return b"".join(parts)


async def drop(receive: Receive, limit: int, patience: float) -> None:
    """Takes in what comes of a body that is refused, up to `limit` bytes, and no longer than `patience` seconds.

    A server that answers and closes a connection while something of the request is unread resets it. The client may
    never read the answer then, and `kubectl port-forward` ends with all that goes through it.
    """
    size, more = 0, True
    with suppress(TimeoutError):
        async with asyncio.timeout(patience):
            while more and size <= limit:
                message = await receive()
                size += len(message.get("body", b""))
                more = message.get("more_body", False)


def again(body: bytes, receive: Receive) -> Receive:
    """What gives a body that was read once more to the application."""
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()  # the application waits for the end of the connection
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


def refusal(status: HTTPStatus, detail: str, **headers: str) -> JSONResponse:
    """An answer of the form that Airflow's own errors have."""
    named: dict[str, Any] = {name.replace("_", "-"): value for name, value in headers.items()}
    return JSONResponse({"detail": detail}, status, named)
