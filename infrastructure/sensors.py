"""The sensor trainer seen from outside the cluster: its API, and readings of the real set that a Job sends to it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import requests

from infrastructure.release import NAMESPACE, RELEASE, NotInstalled, find, kubectl, succeeded, wait_until
from infrastructure.services import port_forward, service, session

COMPONENT = "sensor-trainer"
_SECONDS = 300
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
    """Sends the newest hours of the real set to the trainer, from inside the cluster; returns the command's result.

    The Job is that of `make data` with another command: it has the environment of a task pod.
    """
    cron = find("cronjob", "datasets")
    spec = cron["spec"]["jobTemplate"]["spec"]
    command = ["python", "-m", "mlops", "sensor-trainer", "replay", "--dataset=shuttle", f"--hours={hours:g}"]
    pod = spec["template"]["spec"]
    pod.pop("initContainers", None)
    pod["containers"] = [{**pod["containers"][0], "name": "replay", "args": command}]
    job = _create(
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"generateName": f"{RELEASE}-replay-", "labels": cron["metadata"]["labels"]},
            "spec": spec,
        }
    )
    if not succeeded(job, _SECONDS, "the job that sends readings"):
        raise NotInstalled(f"no readings were sent: {kubectl('logs', job, check=False)[-2000:]}")
    return _result(job)


def _create(manifest: Mapping[str, Any]) -> str:
    command = ["kubectl", "--namespace", NAMESPACE, "create", "-f", "-", "-o", "name"]
    done = subprocess.run(command, input=json.dumps(manifest), capture_output=True, text=True)
    if done.returncode:
        raise NotInstalled(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout.strip()


def _result(job: str) -> dict[str, Any]:
    """What the pod that succeeded left as its termination message."""
    selector = f"job-name={job.rpartition('/')[2]}"
    pods = json.loads(kubectl("get", "pods", "-l", selector, "--field-selector=status.phase=Succeeded", "-o", "json"))[
        "items"
    ]
    message = pods[0]["status"]["containerStatuses"][0]["state"]["terminated"]["message"]
    result: dict[str, Any] = json.loads(message)
    return result
