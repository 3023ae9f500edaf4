"""Keeps the lease of an attempt while its work goes on."""

from __future__ import annotations

import logging
import threading

import psycopg

from mlops.config import DatabaseSettings
from mlops.sensor_trainer.store.database import connect
from mlops.sensor_trainer.store.jobs import LEASE, Attempt

_EVERY = LEASE / 6  # seconds
_AGAIN = 1.0  # seconds until a heartbeat that failed is tried again

log = logging.getLogger(__name__)


class Heartbeat:
    """A context in which the attempt's lease is renewed from a thread, over a connection of its own.

    The connection is made anew where it breaks. The block has to end before Attempt.finishing, which holds the job
    itself, and then no heartbeat could be written.
    """

    def __init__(self, settings: DatabaseSettings, attempt: Attempt, every: float = _EVERY) -> None:
        self._settings, self._attempt, self._every = settings, attempt, every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _keep(self) -> None:
        pause = self._every
        while not self._stop.wait(pause):
            try:
                with connect(self._settings) as connection:
                    pause = self._every
                    while self._attempt.beat(connection):
                        if self._stop.wait(self._every):
                            return
                    return  # another attempt has taken over, which the work hears at its next report
            except psycopg.Error as error:
                log.warning("job %s: no heartbeat: %s", self._attempt.job.id, " ".join(str(error).split()))
                pause = _AGAIN
