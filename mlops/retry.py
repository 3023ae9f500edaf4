"""Calls that are tried again, all by tenacity: what several of them share."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from mlops.result import Failure

if TYPE_CHECKING:
    from tenacity import RetryCallState

_PAUSE = 2.0  # seconds between two attempts

T = TypeVar("T")
log = logging.getLogger(__name__)


def once_started(action: Callable[[], T], deadline: float) -> T:
    """What the action gives, for servers that come up at the same time as what asks them, as at an installation.

    Tried again until the deadline, in seconds of time.monotonic(); then its Failure.
    """
    from tenacity import Retrying, retry_if_exception_type, stop_before_delay, wait_fixed

    retrying = Retrying(
        retry=retry_if_exception_type(Failure),
        wait=wait_fixed(_PAUSE),
        stop=stop_before_delay(deadline - time.monotonic()),
        before_sleep=lambda state: log.info("not yet: %s", error_of(state)),
        reraise=True,
    )
    return retrying(action)


def error_of(state: RetryCallState) -> Any:
    """What the attempt raised; None where it raised nothing."""
    return state.outcome and state.outcome.exception()


def result_of(state: RetryCallState) -> Any:
    """What the attempt gave. As a `retry_error_callback`: the last answer, where tenacity would raise RetryError."""
    return state.outcome and state.outcome.result()
