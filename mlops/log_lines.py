"""A line of a pod's log as JSON, for who collects logs, and such a line as people read it in the log of its task."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

JSON_FORMAT = "json"  # the value of airflow.logs.format that asks for it
_BEGIN = '{"time": "'
_STREAMS = ("stdout", "stderr")  # as loggers: of what was written to them by something else than logging


def as_json(
    time: str, level: str, logger: str, message: str, about: Mapping[str, object], exception: str | None = None
) -> str:
    """One line. time: ISO 8601, UTC. about: which task it is of. exception: its traceback."""
    fields = {"time": time, "level": level, "logger": logger, "message": message, **about}
    # ASCII, so that a secret in it looks as mlops.masking knows it.
    return json.dumps(fields if exception is None else {**fields, "exception": exception})


def is_json(line: bytes) -> bool:
    """Whether a line without its end is already one of these."""
    return line.startswith(_BEGIN.encode()) and line.endswith(b"}")


def readable(text: str) -> str:
    """The lines of a log with those that are JSON as they would be without it; others are left as they are."""
    return "\n".join(map(_readable, text.split("\n"))) if _BEGIN in text else text


def _readable(line: str) -> str:
    if not line.startswith(_BEGIN):
        return line
    try:
        fields: dict[str, Any] = json.loads(line)
        message, logger = fields["message"], fields["logger"]
        shown = message if logger in _STREAMS else f"{fields['time']} {fields['level']} {logger}: {message}"
    except (ValueError, KeyError):  # a line that was cut, or somebody else's
        return line
    return f"{shown}\n{fields['exception']}" if "exception" in fields else str(shown)
