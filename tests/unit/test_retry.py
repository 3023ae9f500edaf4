"""What is tried again, and for how long."""

import logging
import time

import pytest

from mlops.result import Failure
from mlops.retry import once_started
from tests.clock import Clock


def test_a_server_that_is_starting_is_asked_again_and_said_to_be_missing(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    failures = [Failure("first"), Failure("second")]

    def ask() -> str:
        if failures:
            raise failures.pop(0)
        return "an answer"

    with caplog.at_level(logging.INFO):
        assert once_started(ask, time.monotonic() + 60) == "an answer"
    assert clock.pauses == [2, 2]
    assert caplog.messages == ["not yet: first", "not yet: second"]


def test_a_server_that_does_not_start_is_told_by_its_last_failure_before_the_deadline(clock: Clock) -> None:
    attempts: list[float] = []

    def ask() -> None:
        attempts.append(clock.now)
        raise Failure(f"attempt {len(attempts)}")

    with pytest.raises(Failure, match="attempt 5"):
        once_started(ask, time.monotonic() + 9)
    assert attempts[-1] - attempts[0] == 8


def test_what_is_no_failure_of_a_server_is_not_tried_again(clock: Clock) -> None:
    with pytest.raises(ZeroDivisionError):
        once_started(lambda: 1 / 0, time.monotonic() + 60)
    assert clock.pauses == []
