"""Work that a server repeats beside its requests."""

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class PeriodicTask:
    """Calls a function every few seconds in a thread of its own, from `start` to `stop`, whatever it raises."""

    def __init__(self, name: str, every: float, work: Callable[[], object]) -> None:
        self._name, self._every, self._work = name, every, work
        self._wanted, self._done_once, self._stopped = threading.Event(), threading.Event(), False
        self._thread = threading.Thread(target=self._keep, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Asks for the next call at once."""
        self._wanted.set()

    def wait_for_first(self, timeout: float) -> None:
        self._done_once.wait(timeout)

    def stop(self, timeout: float) -> None:
        """No call begins after this; one under way is waited for until the timeout."""
        self._stopped = True
        self._wanted.set()
        self._thread.join(timeout)

    def _keep(self) -> None:
        while not self._stopped:
            self._wanted.clear()
            try:
                self._work()
            except Exception:  # the next round may well succeed, and without this thread there would be none
                log.exception("%s failed; it is tried again in %.0f s", self._name, self._every)
            self._done_once.set()
            self._wanted.wait(self._every)
