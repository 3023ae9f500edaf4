"""An ASGI layer that lets through who has a password, and of MLflow's routes those that the platform opens."""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from maestro_mlflow.routes import OPEN, Access, closed, needed

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_CHALLENGE = (b"www-authenticate", b'Basic realm="MLflow", charset="UTF-8"')
# What a proxy, Starlette or Flask may read as another path than the one that was looked up.
_AMBIGUOUS = re.compile(r"//|\\|[\x00-\x1f\x7f]|(?:^|/)\.{1,2}(?:/|$)")
_LONGEST_PART = 255  # bytes, as of a file's name: artifacts pass the server's disk


class User(NamedTuple):
    name: str
    password: str
    access: Access


class Refusal(NamedTuple):
    """code: one of MLflow's, which its client raises with the message."""

    status: int
    code: str
    message: str


class Guard:
    """Stands before MLflow's application. /health and /metrics, which tell nothing of runs, are open to all."""

    def __init__(self, app: ASGIApp, users: Sequence[User]) -> None:
        self._app, self._users = app, users

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif refusal := self.refusal(scope["method"], scope["path"], scope["headers"]):
            await _answer(refusal, send)
        else:
            await self._app(scope, receive, send)

    def refusal(self, method: str, path: str, headers: Sequence[tuple[bytes, bytes]]) -> Refusal | None:
        """Why a request is not let through; None where it is. path: decoded, without the query."""
        sent = {name.lower(): value for name, value in headers}
        method = "GET" if method == "HEAD" else method
        if (method, path) in OPEN or _asks_before(method, sent):
            return None
        user = self._user([value for name, value in headers if name.lower() == b"authorization"])
        if user is None:
            return Refusal(
                401,
                "UNAUTHENTICATED",
                "MLflow asks for a user and a password: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD "
                "(writer or reader, and its password in the Secret <release>-mlflow or global.mlflow.existingSecret)",
            )
        if _AMBIGUOUS.search(path):
            return Refusal(400, "BAD_REQUEST", "the path has an empty part, a '.', a '..' or a character of no address")
        if max(len(part.encode(errors="replace")) for part in path.split("/")) > _LONGEST_PART:
            return Refusal(400, "BAD_REQUEST", f"a part of the path has more than {_LONGEST_PART} bytes")
        return _forbidden(user, method, path)

    def _user(self, credentials: Sequence[bytes]) -> User | None:
        """Who sends these; None for more than one header, too, of which another reader may take another."""
        if len(credentials) != 1:
            return None
        scheme, _, encoded = credentials[0].partition(b" ")
        try:
            sent = base64.b64decode(encoded.strip(), validate=True) if scheme.lower() == b"basic" else b""
        except binascii.Error:
            return None
        # All are compared, and as a whole, so that the time tells nothing.
        known = [user for user in self._users if hmac.compare_digest(sent, f"{user.name}:{user.password}".encode())]
        return known[0] if known else None


def _forbidden(user: User, method: str, path: str) -> Refusal | None:
    wanted = needed(method, path)
    if wanted is None:
        if reason := closed(path):
            return Refusal(403, "PERMISSION_DENIED", f"{method} {path} is closed here: {reason}")
        return Refusal(404, "ENDPOINT_NOT_FOUND", f"{method} {path} is none of the routes that are open here")
    if wanted is Access.WRITER and user.access is not Access.WRITER:
        return Refusal(
            403, "PERMISSION_DENIED", f"{method} {path} changes something, and the user {user.name} may only read"
        )
    return None


def _asks_before(method: str, sent: Mapping[bytes, bytes]) -> bool:
    """Whether a browser asks what another page may send, to which MLflow answers by itself. It sends no password."""
    return method == "OPTIONS" and b"origin" in sent and b"access-control-request-method" in sent


async def _answer(refusal: Refusal, send: Send) -> None:
    body = json.dumps({"error_code": refusal.code, "message": refusal.message}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [_CHALLENGE] if refusal.status == 401 else []
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
