"""Runs of `chaos_ledger` that go on while faults are inflicted: so many at a time, each followed by the next."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from threading import Event, Thread

import requests

from infrastructure.airflow import Airflow
from infrastructure.release import NotInstalled, wait_until
from infrastructure.services import port_forward
from tests.chaos.ledger import DAG

ENDED = ("success", "failed")
# Beyond what a service that is away for two minutes costs each of a run's tasks.
RUN_SECONDS = 1500
# What is raised while the API is away, its pod is replaced, or a password is another one.
AWAY = (requests.RequestException, OSError, NotInstalled)


class Load(Thread):
    """Keeps `width` runs going. states: run -> its state, `asked for` until Airflow is known to have it.

    A request whose answer was lost is made again under the same name, so no run is begun twice.
    """

    def __init__(self, session: str, width: int) -> None:
        super().__init__(daemon=True, name="load")
        self.states: dict[str, str] = {}
        self.refused = 0
        self._session = session
        self._width = width
        self._over = Event()

    def run(self) -> None:
        while not self._over.is_set():
            try:
                with port_forward("airflow-api-server") as url:
                    airflow = Airflow(url)
                    while not self._over.is_set():
                        self.go_on(airflow)
                        self._over.wait(2)
            except AWAY:
                self.refused += 1
                self._over.wait(2)

    def go_on(self, airflow: Airflow) -> None:
        """Looks at each run that goes on, and begins the next one for each that has ended."""
        for run in self.under_way():
            if self.states[run] != "asked for":
                self.states[run] = airflow.run(DAG, run)["state"]
        while len(self.under_way()) < self._width:
            self.states[f"{self._session}-{len(self.states):04d}"] = "asked for"
        for run, state in list(self.states.items()):
            if state == "asked for":
                self._begin(airflow, run)

    def _begin(self, airflow: Airflow, run: str) -> None:
        try:
            airflow.call("POST", f"/dags/{DAG}/dagRuns", json={"dag_run_id": run, "logical_date": None, "conf": {}})
        except requests.HTTPError as error:
            if error.response is None or error.response.status_code != requests.codes.conflict:
                raise
        self.states[run] = "queued"

    def under_way(self) -> list[str]:
        return [run for run, state in list(self.states.items()) if state not in ENDED]

    def end_of(self, runs: Collection[str]) -> dict[str, str]:
        """The states of these runs once all have ended; of one that has not after RUN_SECONDS the state it is in."""
        with suppress(TimeoutError):  # which the verdict tells of, run by run
            wait_until(lambda: not set(runs) & set(self.under_way()), RUN_SECONDS, "the end of the runs", 1)
        return {run: self.states[run] for run in runs}

    def stop(self) -> None:
        """No run is begun or looked at any more."""
        self._over.set()
        if self.is_alive():
            self.join()
