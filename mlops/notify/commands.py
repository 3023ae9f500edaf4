"""Tell people how a run ended."""

import argparse

from mlops.notify.message import tell
from mlops.result import Result


def send(*, text: list[str]) -> Result:
    """Posts a text to the webhook where one is configured, and otherwise logs the same text."""
    return {"sent": tell("\n".join(text))}


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--text", required=True, action="append", help="a line of the message; repeatable")


COMMANDS = {"send": (send, _options)}
