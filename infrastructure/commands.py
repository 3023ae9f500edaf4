"""One command of the platform, run in the cluster when a person asks for it, by a Job as the release describes it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from infrastructure.release import NotInstalled, find, kubectl, succeeded
from mlops.kubelet import literal
from mlops.needs import needs

COMPONENT = "command"
SECONDS = 600


class Outcome(NamedTuple):
    """What a command handed back, and its log."""

    result: dict[str, Any]
    log: str


def described() -> dict[str, Any]:
    """The ConfigMap with what the release says of commands. Raises NotInstalled where there is none."""
    return find("configmap", COMPONENT)


def run(group: str, command: str, *options: str) -> Outcome:
    """Runs `python -m mlops GROUP COMMAND OPTIONS` in a pod and waits for its end.

    Raises NotInstalled with its log where it failed, and TimeoutError.
    """
    manifest = make_job(described(), group, command, options)
    job = kubectl("create", "-f", "-", "-o", "name", stdin=json.dumps(manifest)).strip()
    done = succeeded(job, SECONDS, f"the job of {group} {command}")
    log = kubectl("logs", job, check=False)
    if not done:
        raise NotInstalled(f"{group} {command} failed, its log ends with:\n{log[-2000:]}")
    return Outcome(_result(job), log)


def make_job(config_map: Mapping[str, Any], group: str, command: str, options: Sequence[str] = ()) -> dict[str, Any]:
    """The Job of a command: what the ConfigMap says of all, with the environment for what this one opens.

    Raises mlops.result.Failure where nothing says what that is.
    """
    job, environments = (yaml.safe_load(config_map["data"][name]) for name in ("job.yaml", "environments.yaml"))
    (container,) = job["spec"]["template"]["spec"]["containers"]
    container["args"] = ["python", "-m", "mlops", group, command, *map(literal, options)]
    opened = needs(group, command)
    container["env"] = [*container.get("env", ()), *(entry for need in opened for entry in environments[need] or ())]
    for need, account in yaml.safe_load(config_map["data"]["identities.yaml"]).items():
        if need in opened:
            pod = job["spec"]["template"]["spec"]
            pod |= {"serviceAccountName": account, "automountServiceAccountToken": True}
    # By which NetworkPolicies let the pod go there, as they do one of a task (mlops/airflow/pods/manifest.py).
    job["spec"]["template"]["metadata"]["labels"] |= {f"maestro/opens-{need}": "true" for need in opened}
    owner = {key: config_map["metadata"][key] for key in ("name", "uid")}
    job["metadata"] |= {
        "generateName": f"{owner['name']}-{group}-{command}-",
        # Helm does not know the Job: with its owner it is removed when the release is.
        "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", **owner}],
    }
    return dict(job)


def _result(job: str) -> dict[str, Any]:
    """What the pod that succeeded left as its termination message."""
    selector = f"job-name={job.rpartition('/')[2]}"
    pods = json.loads(kubectl("get", "pods", "-l", selector, "--field-selector=status.phase=Succeeded", "-o", "json"))[
        "items"
    ]
    message = pods[0]["status"]["containerStatuses"][0]["state"]["terminated"]["message"]
    result: dict[str, Any] = json.loads(message)
    return result
