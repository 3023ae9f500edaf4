"""A message to a Slack-compatible incoming webhook. Its URL is a secret: whoever knows it can post.

https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks, and for the limits
https://docs.slack.dev/reference/block-kit/blocks. It is one request: Slack's own client takes 0.9 s to import, logs the
address, and waits as long as it is told to.
"""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

from mlops.notify.failures import Passing, slow
from mlops.notify.message import Message
from mlops.result import Failure

_TIMEOUT = 10.0  # seconds
_SECTION = 3000  # characters
_BLOCKS = 50
_TEXT = 40_000  # characters of `text`, which Slack shows where it cannot show blocks, and others where they know none
_BUSY = (429, 502, 503, 504)
_WORD = re.compile(r"[a-z_]{1,40}")  # as Slack names what it does not take; anything else might hold the address
_REMEDY = "check the Secret that global.notifications.slackWebhookSecret names"


def post(url: str, message: Message) -> None:
    """Posts the message. Raises Failure, which does not show the URL, unless the webhook takes it."""
    body = json.dumps({"text": _escaped(message.plain)[:_TEXT], "blocks": blocks(message)}).encode()
    try:
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        if request.type not in ("http", "https"):
            raise Failure(f"the webhook's URL is not one of http or https: {_REMEDY}")
        with urllib.request.urlopen(request, timeout=_TIMEOUT):
            return
    except urllib.error.HTTPError as error:
        said = error.read(100).decode(errors="replace")
        why = f" ({said})" if _WORD.fullmatch(said) else ""
        raised = Passing if error.code in _BUSY else Failure
        raise raised(f"the webhook answered {error.code}{why}: {_REMEDY}") from None
    except (OSError, ValueError) as error:
        # The text of these may hold the URL, their type does not.
        raised = Passing if isinstance(error, OSError) and not slow(error) else Failure
        raise raised(f"the webhook cannot be reached ({type(error).__name__}): {_REMEDY}") from None


def blocks(message: Message) -> list[dict[str, Any]]:
    """The message as Slack's blocks. What a task says is never markup, and calls nobody."""
    return list(_blocks(message))[:_BLOCKS]


def _blocks(message: Message) -> Iterator[dict[str, Any]]:
    yield {"type": "header", "text": _plain(message.subject)}
    for start in range(0, len(message.more), _SECTION):
        yield {"type": "section", "text": _plain(message.more[start : start + _SECTION])}
    for part in _parts(_escaped(message.table).splitlines(), _SECTION - len("```\n\n```")):
        yield _marked(f"```\n{part}\n```")
    for part in _parts([_linked(link.name, link.place, link.opens) for link in message.links], _SECTION):
        yield _marked(part)


def _parts(lines: list[str], limit: int) -> Iterator[str]:
    """The lines, as many as the limit lets stand together."""
    part = ""
    for line in (line[:limit] for line in lines):
        if part and len(part) + 1 + len(line) > limit:
            yield part
            part = ""
        part = f"{part}\n{line}" if part else line
    if part:
        yield part


def _plain(text: str) -> dict[str, Any]:
    return {"type": "plain_text", "text": text, "emoji": False}


def _marked(text: str) -> dict[str, Any]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text, "verbatim": True}}


def _linked(name: str, place: str, opens: bool) -> str:
    return f"<{_escaped(place)}|{_escaped(name)}>" if opens else f"{_escaped(name)}: {_escaped(place)}"


def _escaped(text: str) -> str:
    """https://docs.slack.dev/messaging/formatting-message-text#escaping."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
