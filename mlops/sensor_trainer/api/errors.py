"""Errors as problem details (RFC 9457), whoever makes them: this service, FastAPI, or a server behind it."""

import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.responses import Response

from mlops.result import Failure
from mlops.sensor_trainer.store.errors import AccessDenied, Unavailable

MEDIA_TYPE = "application/problem+json"
SHOWN = 20  # faults that one answer lists
_FIELD_LENGTH = 100  # characters of a field's name, which the client chose
_SCHEMA = {
    "type": "object",
    "description": "A problem as RFC 9457 describes it; some kinds have members of their own.",
    "required": ["type", "title", "status", "detail", "instance"],
    "properties": {
        "type": {"type": "string", "format": "uri", "description": "the kind of problem; about:blank: its status"},
        "title": {"type": "string", "description": "the kind in words"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "what is wrong this time, and what to do"},
        "instance": {"type": "string", "description": "the path that was asked for"},
        "errors": {
            "type": "array",
            "maxItems": SHOWN,
            "description": f"what is wrong with the request, at most {SHOWN} faults",
            "items": {
                "type": "object",
                "required": ["field", "reason"],
                "properties": {
                    "index": {"type": "integer", "description": "the place of the reading in the batch, from 0"},
                    "field": {"type": "string"},
                    "reason": {"type": "string"},
                },
            },
        },
    },
}

log = logging.getLogger(__name__)


class Problem(HTTPException):
    """An answer that is a problem. kind: a word for programs; members: what else they may want to know.

    An HTTPException, since FastAPI lets no other exception through that is raised while it reads a body.
    """

    def __init__(
        self,
        status: HTTPStatus,
        kind: str,
        title: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(status, detail, dict(headers or {}))
        self.kind, self.title, self.members = f"urn:maestro:sensor-trainer:{kind}", title, members


class Malformed(Problem):
    """The request cannot be what its sender meant. faults: each with `field`, `reason` and perhaps `index`."""

    def __init__(self, faults: Sequence[Mapping[str, Any]]) -> None:
        more = f"; the first {SHOWN} are listed" if len(faults) > SHOWN else ""
        plural = "faults" if len(faults) > 1 else "fault"
        super().__init__(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "malformed",
            "The request is malformed",
            f"{len(faults)} {plural}, so that nothing of the request was taken{more}: mend them and send it again",
            errors=list(faults[:SHOWN]),
        )


class ServiceUnavailable(Problem):
    """A server behind this one gives no answer. service: its name in /ready."""

    def __init__(self, service: str, detail: str) -> None:
        super().__init__(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "unavailable",
            "A server behind this one is away",
            detail,
            headers={"Retry-After": "5"},
            service=service,
        )


def install(app: FastAPI) -> None:
    """Makes each error of the application a problem."""
    app.add_exception_handler(StarletteHTTPException, _of_http)
    app.add_exception_handler(RequestValidationError, of_validation)
    app.add_exception_handler(Failure, _of_failure)
    app.add_exception_handler(Exception, _of_anything)


def response(path: str, error: StarletteHTTPException) -> Response:
    """The problem as an answer to a request for the path; one of the framework's is of the kind of its status."""
    status = HTTPStatus(error.status_code)
    content: dict[str, Any] = {"type": "about:blank", "title": status.phrase, "status": error.status_code}
    if isinstance(error, Problem):
        content |= {**error.members, "type": error.kind, "title": error.title}
    content |= {"detail": str(error.detail), "instance": path}
    # ASCII: what a client sent, such as half a surrogate pair, may not be text that UTF-8 can write.
    body = json.dumps(content, ensure_ascii=True).encode()
    return Response(body, error.status_code, dict(error.headers or {}), MEDIA_TYPE)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """How an operation's problems stand in the OpenAPI document."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


def describe(document: dict[str, Any]) -> None:
    """Adds to the OpenAPI document what `documented` refers to."""
    document.setdefault("components", {}).setdefault("schemas", {})["Problem"] = _SCHEMA


async def of_validation(request: Request, error: Exception) -> Response:
    """What the types of the bodies do not allow."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 - what the handler is registered for
    return response(request.url.path, Malformed(list(_faults(error.errors()))))


async def _of_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)  # noqa: S101 - what the handler is registered for
    return response(request.url.path, error)


async def _of_failure(request: Request, error: Exception) -> Response:
    """A store says in words what is wrong with the server behind it, and what to do."""
    service = error.service if isinstance(error, Unavailable | AccessDenied) else "unknown"
    log.warning("%s %s: %s", request.method, request.url.path, error)
    return response(request.url.path, ServiceUnavailable(service, str(error)))


async def _of_anything(request: Request, error: Exception) -> Response:
    """The server logs the error itself afterwards; its text may hold what a client must not see."""
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    detail = "this is a fault of the service: its log has the cause"
    return response(request.url.path, StarletteHTTPException(status, detail))


def _faults(errors: Iterable[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    """FastAPI's errors as `field` and `reason`, and `index` where they are of a reading of a list."""
    for error in errors:
        where, *place = error["loc"]  # body, header or path, and then the place in it
        if error["type"] == "json_invalid":
            yield {"field": "body", "reason": f"is no JSON: {error['ctx']['error']} at character {place[0]}"}
        elif place[:1] == ["readings"] and len(place) > 1:
            yield {"index": place[1], "field": _field(place[2:]) or "reading", "reason": _reason(error)}
        else:
            yield {"field": _field(place) or where, "reason": _reason(error)}


def _field(place: Iterable[object]) -> str:
    return ".".join(re.sub(r"[^\x20-\x7e]", "?", str(part))[:_FIELD_LENGTH] for part in place)


def _reason(error: Mapping[str, Any]) -> str:
    known = {"missing": "is missing", "extra_forbidden": "is unknown"}
    return known.get(error["type"], str(error["msg"]))
