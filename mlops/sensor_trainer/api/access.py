"""Who may ask: whoever has the token of the Secret. Looked at before anything of a request's body is read."""

import hmac
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from mlops.sensor_trainer.api import docs
from mlops.sensor_trainer.api.errors import Problem, response

# Asked by the kubelet, by Prometheus, and by who wants to know how to ask; they tell nothing of a reading.
OPEN = frozenset({"/health", "/ready", "/metrics", "/openapi.json"}) | docs.PATHS
_REALM = 'Bearer realm="sensor-trainer"'


class Access:
    """Lets requests with the token through to the application, and those for OPEN."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._expected = app, f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("authorization")
        scheme, _, token = (given or "").strip().partition(" ")
        # Compared in a time that does not tell how much of it was right. The scheme's case does not matter (RFC 9110).
        offered = f"{scheme.capitalize()} {token.strip()}".encode()
        if hmac.compare_digest(offered, self._expected):
            await self._app(scope, receive, send)
        else:
            await response(scope["path"], _unauthorized(given))(scope, receive, send)


def _unauthorized(given: str | None) -> Problem:
    if given is None:
        detail, challenge = "the header 'Authorization: Bearer <token>' is missing", _REALM
    else:
        detail, challenge = "the token in the header 'Authorization' is not the one", f'{_REALM}, error="invalid_token"'
    return Problem(
        HTTPStatus.UNAUTHORIZED,
        "unauthorized",
        "The token is missing or wrong",
        f"{detail}: take it from the key 'token' of the Secret that global.sensorTrainer.existingSecret names",
        headers={"WWW-Authenticate": challenge},
    )
