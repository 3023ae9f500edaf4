"""How much of a request is taken in: its bytes, the JSON in them, how long they take, and those of all requests."""

import asyncio
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlops.sensor_trainer.api.errors import Malformed, Problem, response

BODY = 8 << 20  # bytes; a batch of 5,000 readings has 1 to 3 MiB
TOGETHER = 8 * BODY  # bytes of all bodies that are being read or worked on
PATIENCE = 30.0  # seconds until a body is in
# Each value of a JSON text follows one of these. Parsed, it takes up to 200 bytes: 8 MiB of `{},` would take 400 MB.
_BEFORE_A_VALUE = (b",", b"[", b"{")


class Limits:
    """Refuses a request that is too much for the application before it is in memory.

    values: how many values the JSON of a body may have.
    """

    def __init__(
        self, app: ASGIApp, values: int, *, body: int = BODY, together: int = TOGETHER, patience: float = PATIENCE
    ) -> None:
        self._app, self._body, self._together, self._values, self._patience = app, body, together, values, patience
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        size = self._announced(Headers(scope=scope))
        if size > self._body:
            # The server throws away what still comes, so that the client gets to read the answer.
            await response(scope["path"], self._too_large(f"{size} bytes"))(scope, receive, send)
            return
        if size and self._held + size > self._together:
            await response(scope["path"], _busy())(scope, receive, send)
            return
        self._held += size
        try:
            await self._app(scope, self._counted(receive), send)
        finally:
            self._held -= size

    def _announced(self, headers: Headers) -> int:
        """Bytes of the body as its sender says, or as many as there may be where he says nothing."""
        length = headers.get("content-length", "")
        if length.isdecimal():
            return int(length)
        return self._body if "transfer-encoding" in headers else 0

    def _counted(self, receive: Receive) -> Receive:
        seen = values = 0
        ended = False
        deadline = asyncio.get_running_loop().time() + self._patience

        async def counted() -> Message:
            nonlocal seen, values, ended
            if ended:  # the application waits for the end of the connection
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError as error:
                raise self._too_slow() from error
            part = message.get("body", b"")
            seen += len(part)
            values += sum(part.count(character) for character in _BEFORE_A_VALUE)
            ended = not message.get("more_body", False)
            if seen > self._body:
                raise self._too_large("more bytes than it announced, or announced none")
            if values > self._values:
                raise Malformed([{"field": "body", "reason": f"has more than {self._values} values"}])
            return message

        return counted

    def _too_large(self, size: str) -> Problem:
        return Problem(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            "too-large",
            "The body is too large",
            f"the body has {size}, {self._body} are allowed: send several smaller batches",
        )

    def _too_slow(self) -> Problem:
        return Problem(
            HTTPStatus.REQUEST_TIMEOUT,
            "too-slow",
            "The body did not arrive",
            f"the body was not in after {self._patience:.0f} s: send smaller batches where the line is slow",
        )


def _busy() -> Problem:
    return Problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "busy",
        "Too many bodies at once",
        "this server holds as many bytes of other requests as it may: send the request again in a second",
        headers={"Retry-After": "1"},
    )
