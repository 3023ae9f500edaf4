"""Servers that come up at the same time as what asks them, as at an installation."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from mlops.result import Failure

_PAUSE = 3.0  # seconds between two attempts

T = TypeVar("T")
log = logging.getLogger(__name__)


def once_started(action: Callable[[], T], deadline: float) -> T:
    """What the action gives, tried again until the deadline, in seconds of time.monotonic(); then its Failure."""
    while True:
        try:
            return action()
        except Failure as failure:
            if time.monotonic() + _PAUSE > deadline:
                raise
            log.info("not yet: %s", failure)
            time.sleep(_PAUSE)
