"""What a form or an object of JSON holds, read as Airflow reads it: else it would be asked about one and do another."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.types import Receive, Scope

from mlops.airflow.guard.asgi import again

_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


class Unreadable(Exception):
    """Why a body could be something else to another reader, in a sentence."""


async def fields(scope: Scope, body: bytes, receive: Receive) -> dict[str, Any]:
    """By name: of a field of a form that comes more than once the first value, no files; of JSON the last.

    Nothing where the JSON is no object, which is no form. Raises Unreadable.
    """
    if not body:
        return {}
    request = Request(scope, again(body, receive))
    types = request.headers.getlist("content-type") or ["application/json"]
    media = types[0].partition(";")[0].strip().lower()
    is_json = media == "application/json" or (media.startswith("application/") and media.endswith("+json"))
    if len(types) > 1 or not (is_json or media in _FORMS):
        raise Unreadable("the body is neither JSON nor a form, by one Content-Type: send it as one of them")
    try:
        if is_json:
            found = await request.json()
            return found if isinstance(found, dict) else {}
        sent = (await request.form()).multi_items()
    except Exception as error:
        raise Unreadable(f"the body cannot be read as {media}: send it as JSON or as a form") from error
    return {name: value for name, value in reversed(sent) if isinstance(value, str)}
