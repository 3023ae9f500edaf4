"""How much of a request is taken in, and what of it no database can store."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote_to_bytes

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from mlops.airflow.guard.asgi import TooLarge, again, drop, path_of, refusal, whole

TASK_BODY = 16 << 20  # bytes that a task may report, its result among them
DROPPED = 64 << 20  # bytes of a body too large that are taken in all the same, and not kept
PATIENCE = 30.0  # seconds until a body is in
VALUES = 1000  # of a run's conf: keys and items of all levels
DEPTH = 8  # levels of a run's conf

# What makes runs: the conf of each is kept with it, is read with it by whoever lists runs, and is a form in the UI.
_CONF = re.compile(r"/(api/v2|ui)/(dags/[^/]+/dagRuns(/.*)?|backfills(/.*)?|assets/[^/]+/materialize)/?")
_WRITING = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class Unfit(Exception):
    """What is wrong with a body, in a sentence."""


class Bodies:
    """Reads a body before anything else does, and refuses one that is too much.

    conf, body: bytes of a request that makes a run, and of any other of a person.
    """

    def __init__(self, app: ASGIApp, *, conf: int, body: int, patience: float = PATIENCE) -> None:
        self._app, self._conf, self._body, self._patience = app, conf, body, patience

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if b"\0" in unquote_to_bytes(scope.get("raw_path") or b"") + unquote_to_bytes(scope["query_string"]):
            answer: Response = refusal(HTTPStatus.BAD_REQUEST, "the address holds a NUL character: take it out")
            await answer(scope, receive, send)
        elif scope["method"] in _WRITING:
            await self._written(scope, receive, send)
        else:
            await self._answered(scope, receive, send)

    async def _written(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = path_of(scope)
        makes_runs = _CONF.fullmatch(path) is not None
        limit = TASK_BODY if path.startswith("/execution/") else self._conf if makes_runs else self._body
        try:
            announced = Headers(scope=scope).get("content-length", "")
            if announced.isdecimal() and int(announced) > limit:
                raise TooLarge(more=True)
            body = await whole(receive, limit, self._patience)
            if not path.startswith("/execution/"):
                _check(body, makes_runs=makes_runs)
        except TooLarge as error:
            if error.more:
                await drop(receive, DROPPED, self._patience)
            answer = refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _too_large(limit, makes_runs=makes_runs))
        except TimeoutError:
            detail = f"the body was not in after {self._patience:.0f} s: send it again"
            answer = refusal(HTTPStatus.REQUEST_TIMEOUT, detail, Connection="close")
        except Unfit as error:
            answer = refusal(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        else:
            await self._answered(scope, again(body, receive), send)
            return
        await answer(scope, receive, send)

    async def _answered(self, scope: Scope, receive: Receive, send: Send) -> None:
        from sqlalchemy.exc import DataError

        try:
            await self._app(scope, receive, send)
        except DataError as error:
            # A number beyond the column's, for example, which Airflow hands on as it came.
            cause = " ".join(str(error.orig).split())[:200]
            answer = refusal(HTTPStatus.UNPROCESSABLE_ENTITY, f"the database does not take a value of this: {cause}")
            await answer(scope, receive, send)


def _too_large(limit: int, *, makes_runs: bool) -> str:
    if makes_runs:
        return (
            f"what makes a run may have {limit} bytes (max_conf_bytes): put what is larger into the object store and "
            "its key into the conf"
        )
    return f"a request may have {limit} bytes (max_body_bytes): send several smaller ones"


def _check(body: bytes, *, makes_runs: bool) -> None:
    """Raises Unfit. What is no JSON is left to whom it is for."""
    try:
        content = json.loads(body)
    except RecursionError:
        raise Unfit(f"the JSON is nested too deeply: {DEPTH} levels are allowed") from None
    except ValueError:
        return
    for count, (depth, value) in enumerate(_values(content)):
        if isinstance(value, str) and ("\0" in value or not _is_text(value)):
            raise Unfit("a text holds a NUL character or half a surrogate pair, which PostgreSQL stores in no text")
        if isinstance(value, float) and not math.isfinite(value):
            raise Unfit("a number is infinite or none, which is no JSON: a double holds at most 1.8e308")
        if makes_runs and depth > DEPTH:
            raise Unfit(
                f"the conf has more than {DEPTH} levels: put it into the object store and its key into the conf"
            )
        if makes_runs and count > VALUES:
            raise Unfit(f"the conf has more than {VALUES} values: put them into the object store and their key into it")


def _values(content: Any) -> Iterator[tuple[int, Any]]:
    """Each value with its level, and each key of a mapping."""
    waiting = [(0, content)]
    while waiting:
        depth, value = waiting.pop()
        yield depth, value
        if isinstance(value, dict):
            yield from ((depth, key) for key in value)
            waiting += [(depth + 1, item) for item in value.values()]
        elif isinstance(value, list):
            waiting += [(depth + 1, item) for item in value]


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
