"""What a command hands back: one small JSON document as its container's termination message.

Exit code 0 comes with the result, 1 with the cause of a failure as plain text, 65 with the cause of one that would come
again with the same input, 99 with `{"skipped": reason}`.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TypeAlias

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"
Result: TypeAlias = Mapping[str, JSON]

LIMIT = 4096  # bytes; the kubelet cuts a longer termination message
EXIT_REFUSED = 65  # exit code that the operator reads as "do not try again"; EX_DATAERR of sysexits.h
EXIT_SKIPPED = 99  # exit code that the operator reads as "skip this task"
TERMINATION_LOG = "/dev/termination-log"
EMPTY = "{}"
_CUT = " [...] "


class Failure(Exception):
    """A command cannot go on. The text says what is wrong, where, and what to do."""


class Refused(Failure):
    """What a command was given is wrong, and stays wrong however often it is tried."""


class Skip(Exception):
    """There is nothing to do for a command. The text is the reason."""


def encode(result: Result) -> str:
    """The result as JSON.

    Raises Failure where the JSON is longer than LIMIT bytes or a number is not finite (JSON has no NaN).
    """
    not_finite = sorted(name for name, value in result.items() if not _is_encodable(value))
    if not_finite:
        raise Failure(f"the result's {', '.join(not_finite)} cannot be written as JSON: hand back null instead of NaN")
    text = json.dumps(result, ensure_ascii=False, allow_nan=False)
    size = len(text.encode())
    if size > LIMIT:
        largest = max(result, key=lambda name: len(json.dumps(result[name], ensure_ascii=False).encode()))
        raise Failure(
            f"the result has {size} bytes, {LIMIT} are allowed (largest field: {largest}): "
            "write the data to the object store and hand back its key"
        )
    return text


def shorten(text: str, limit: int = LIMIT) -> str:
    """The text in at most `limit` bytes of UTF-8, cut in the middle: a cause stands first, a remedy last."""
    encoded = text.encode()
    if len(encoded) <= limit:
        return text
    kept = (limit - len(_CUT)) // 2
    return encoded[:kept].decode(errors="ignore") + _CUT + encoded[-kept:].decode(errors="ignore")


def hand_back(message: str) -> None:
    """Writes the message to MAESTRO_RESULT_PATH, else to the container's termination log, else to stdout.

    There an empty result is left out: its command has written there what it found.
    """
    path = os.environ.get("MAESTRO_RESULT_PATH")
    if path is None and os.access(TERMINATION_LOG, os.W_OK):
        path = TERMINATION_LOG
    if path is None and message == EMPTY:
        return
    if path is None:
        sys.stdout.write(message + "\n")
    else:
        # To import pathlib takes longer than a light command works.
        with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123
            file.write(message)


def _is_encodable(value: JSON) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True
