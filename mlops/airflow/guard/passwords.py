"""How long a password has to be that somebody gives to a user, by a form or by the API."""

from __future__ import annotations

from http import HTTPStatus

from starlette.types import ASGIApp, Receive, Scope, Send

from mlops.airflow.guard.asgi import again, path_of, refusal, whole
from mlops.airflow.guard.bodies import PATIENCE
from mlops.airflow.guard.logins import PATHS, fields

_BODY = 1 << 20  # bytes; Bodies has looked at it


class Passwords:
    """Refuses a password of fewer than `minimum` characters wherever one is set, and not where one logs in."""

    def __init__(self, app: ASGIApp, *, minimum: int) -> None:
        self._app, self._minimum = app, minimum

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = path_of(scope) if scope["type"] == "http" else ""
        sets = (
            path.startswith("/auth/") and path.rstrip("/") not in PATHS and scope["method"] in ("POST", "PATCH", "PUT")
        )
        if not sets:
            await self._app(scope, receive, send)
            return
        body = await whole(receive, _BODY, PATIENCE)
        password = (await fields(scope, body, receive)).get("password")
        if isinstance(password, str) and len(password) < self._minimum:
            detail = f"a password has to have {self._minimum} characters (minimum_password_length): choose a longer one"
            await refusal(HTTPStatus.UNPROCESSABLE_ENTITY, detail)(scope, receive, send)
            return
        await self._app(scope, again(body, receive), send)
