"""The sensor trainer seen from outside the cluster: its API, and readings of the real set that are sent to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import requests

from infrastructure.commands import run
from infrastructure.release import NotInstalled, wait_until
from infrastructure.services import port_forward, service, session

COMPONENT = "sensor-trainer"
_SERVED_SECONDS = 90


def token() -> str:
    """What every request to the trainer bears."""
    return service(COMPONENT).secret("token")


class Trainer:
    """The trainer's API with its token."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.session = session()
        self.session.headers["Authorization"] = f"Bearer {token()}"

    def ask(self, method: str, path: str, **arguments: Any) -> requests.Response:
        """The answer, whatever its status."""
        return self.session.request(method, f"{self.url}{path}", timeout=30, **arguments)

    def predict(self, readings: list[dict[str, Any]], version: str | None = None) -> dict[str, Any]:
        """The model's version, and a prediction for each of the readings; by that version, where one is given.

        The trainer looks for a new version every few seconds: a moment after a training it is waited for.
        """

        def predicted() -> dict[str, Any]:
            """Nothing where the version does not answer yet."""
            answer = self.ask("POST", "/predict", json={"readings": readings})
            if answer.status_code == requests.codes.service_unavailable and version:
                return {}
            if not answer.ok:
                raise NotInstalled(f"the sensor trainer answered {answer.status_code}: {answer.text[:500]}")
            predictions: dict[str, Any] = answer.json()
            return predictions if version in (None, predictions["model_version"]) else {}

        return wait_until(predicted, _SERVED_SECONDS, f"predictions by version {version}")


@contextmanager
def trainer() -> Iterator[Trainer]:
    with port_forward(COMPONENT) as url:
        yield Trainer(url)


def replay(hours: float) -> dict[str, Any]:
    """Sends the newest hours of the real set to the trainer, from inside the cluster; returns the command's result."""
    return run("sensor-trainer", "replay", "--dataset=shuttle", f"--hours={hours:g}").result
