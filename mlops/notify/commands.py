"""Tell people how a run ended."""

import argparse
import logging

from mlops.config import Settings
from mlops.notify.webhook import post
from mlops.result import Result

log = logging.getLogger(__name__)


def send(*, text: list[str]) -> Result:
    """Posts a text to the webhook where one is configured, and otherwise logs the same text."""
    message = "\n".join(text)
    url = Settings.from_environment().slack_webhook_url
    if url is None:
        log.info("no webhook is configured; the message:\n%s", message)
        return {"sent": "log"}
    post(url, message)
    log.info("sent to the webhook:\n%s", message)
    return {"sent": "webhook"}


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--text", required=True, action="append", help="a line of the message; repeatable")


COMMANDS = {"send": (send, _options)}
