"""How long a password has to be that somebody gives to a user, by a form or by the API."""

from __future__ import annotations

from http import HTTPStatus

from starlette.types import ASGIApp, Receive, Scope, Send

from mlops.airflow.guard.asgi import again, path_of, refusal, whole
from mlops.airflow.guard.fields import Unreadable, fields
from mlops.airflow.guard.logins import PATHS


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
        body = await whole(receive)
        try:
            password = (await fields(scope, body, receive)).get("password")
        except Unreadable as error:
            await refusal(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))(scope, receive, send)
            return
        if isinstance(password, str) and len(password) < self._minimum:
            detail = f"a password has to have {self._minimum} characters (minimum_password_length): choose a longer one"
            await refusal(HTTPStatus.UNPROCESSABLE_ENTITY, detail)(scope, receive, send)
            return
        await self._app(scope, again(body, receive), send)
