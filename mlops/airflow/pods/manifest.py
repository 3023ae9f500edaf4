"""The manifest of a task's pod: a pure function of the chart's template, the platform and the task instance."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from airflow.sdk.exceptions import AirflowException

from mlops.airflow.platform import Platform
from mlops.kubelet import literal
from mlops.masking import SECRETS

CONTAINER = "base"  # the container of the template that does the work
TASK_INSTANCE = (
    "maestro/task-instance"  # label, the same for every try of a task instance: finds what earlier tries left
)
TRY = "maestro/try"  # label, the UUID of one try: every pod of the platform has it, so the shared watch selects on it
SIZE = "maestro/size"  # label, for the advice after an out-of-memory kill
OPENS = "maestro/opens-"  # label with a need behind it, by which the chart's NetworkPolicies let the pod go there

_NAME_PART = 20  # characters of the DAG's and of the task's name in a pod's name: 20 + 1 + 20 + 1 + 12 are within 63
_LABEL_LENGTH = 63  # the longest label value that Kubernetes takes

Value = TypeVar("Value")


@dataclass(frozen=True)
class TaskTry:
    """One try of one task instance. `uuid` is Airflow's id of the task instance, which is new for each try."""

    dag_id: str
    task_id: str
    run_id: str
    map_index: int
    try_number: int
    uuid: str

    @property
    def key(self) -> str:
        """The same for each try of the task instance and another for every other one; a valid label value."""
        return _digest(json.dumps([self.dag_id, self.task_id, self.run_id, self.map_index]), 20)

    @property
    def pod_name(self) -> str:
        """A DNS-1123 label. Repeating a try's create meets its own pod; no try ever meets another's."""
        return f"{_slug(self.dag_id)}-{_slug(self.task_id)}-{_digest(self.uuid, 12)}"

    @property
    def environment(self) -> dict[str, str]:
        """What `mlops.config.RunIdentity` reads in the pod."""
        return {
            "MAESTRO_DAG_ID": self.dag_id,
            "MAESTRO_RUN_ID": self.run_id,
            "MAESTRO_TASK_ID": self.task_id,
            "MAESTRO_TRY_NUMBER": str(self.try_number),
            "MAESTRO_MAP_INDEX": str(self.map_index),
        }


def make_pod(
    platform: Platform,
    task: TaskTry,
    arguments: Sequence[str],
    *,
    image: str = "task",
    size: str = "small",
    identity: str | None = None,
    needs: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    deadline: float | None = None,
) -> dict[str, Any]:
    """The pod in which `arguments` run, as a JSON-like dict.

    image, size, identity, needs: names that the platform declares; an identity brings its service account's token, a
    need the address and the credentials of what is opened.
    env: added to the template's environment and stronger than it; what names the task is stronger still.
    deadline: seconds after its start at which the kubelet ends the pod by itself; None for never.
    Raises AirflowException for a name that is not declared and for a template without the container `base`.
    """
    pod = copy.deepcopy(dict(platform.template))
    metadata = pod.setdefault("metadata", {})
    metadata["name"] = task.pod_name
    metadata["namespace"] = platform.namespace
    metadata["labels"] = {
        **metadata.get("labels", {}),
        "maestro/dag-id": label_value(task.dag_id),
        "maestro/task-id": label_value(task.task_id),
        "maestro/run-id": label_value(task.run_id),
        SIZE: label_value(size),
        TASK_INSTANCE: task.key,
        TRY: task.uuid,
        **{f"{OPENS}{need}": "true" for need in [*needs, *(["kubernetes"] if identity is not None else [])]},
    }
    metadata["annotations"] = {
        **metadata.get("annotations", {}),
        "maestro/dag-id": task.dag_id,
        "maestro/task-id": task.task_id,
        "maestro/run-id": task.run_id,
        "maestro/map-index": str(task.map_index),
        "maestro/try-number": str(task.try_number),
    }
    if platform.owner is not None:
        metadata["ownerReferences"] = [dict(platform.owner)]
    spec = pod.setdefault("spec", {})
    spec["restartPolicy"] = "Never"  # Airflow decides about retries
    if deadline is not None:
        spec["activeDeadlineSeconds"] = max(1, int(deadline))
    if identity is not None:
        spec["serviceAccountName"] = _declared(platform.identities, identity, "identity", "values of the airflow chart")
        spec["automountServiceAccountToken"] = True
    container = _base_container(spec)
    container["image"] = _declared(platform.images, image, "image", "global.images")
    container["resources"] = copy.deepcopy(dict(_declared(platform.sizes, size, "size", "taskSizes")))
    _place(spec, platform.placements.get(size, {}))
    container["args"] = [literal(argument) for argument in arguments]
    told = [entry for need in needs for entry in _declared(platform.environments, need, "need", "charts/common")]
    container["env"] = _merged([*told, *container.get("env", [])], {**(env or {}), **task.environment})
    if secrets := [entry["name"] for entry in container["env"] if "secretKeyRef" in entry.get("valueFrom", {})]:
        container["env"].append({"name": SECRETS, "value": ",".join(secrets)})
    return pod


def label_value(text: str) -> str:
    """The text as a label value; where it had to be changed, a digest keeps two texts apart."""
    kept = re.sub(r"[^A-Za-z0-9_.-]+", "-", text)
    if kept == text and len(text) <= _LABEL_LENGTH and re.fullmatch(r"[A-Za-z0-9](.*[A-Za-z0-9])?", text):
        return text
    shortened = kept[: _LABEL_LENGTH - 9].strip("-_.") or "x"
    return f"{shortened}-{_digest(text, 8)}"


def _place(spec: dict[str, Any], placement: Mapping[str, Any]) -> None:
    """Adds to what the template asks of a node."""
    if selector := placement.get("nodeSelector"):
        spec["nodeSelector"] = {**(spec.get("nodeSelector") or {}), **selector}
    if tolerations := placement.get("tolerations"):
        spec["tolerations"] = [*(spec.get("tolerations") or []), *tolerations]


def _base_container(spec: Mapping[str, Any]) -> dict[str, Any]:
    for container in spec.get("containers", []):
        if container.get("name") == CONTAINER:
            found: dict[str, Any] = container
            return found
    raise AirflowException(f"the pod template has no container named {CONTAINER}: see charts/airflow")


def _merged(entries: Sequence[Mapping[str, Any]], env: Mapping[str, str]) -> list[dict[str, Any]]:
    """Of two entries of a name the later one counts; `env` is stronger than both."""
    kept = {entry["name"]: dict(entry) for entry in entries}
    return [entry for name, entry in kept.items() if name not in env] + [
        {"name": name, "value": literal(str(value))} for name, value in env.items()
    ]


def _declared(names: Mapping[str, Value], name: str, what: str, where: str) -> Value:
    if name not in names:
        raise AirflowException(
            f"{what} {name!r} is not declared: use one of {', '.join(sorted(names)) or '(none)'} or add it to {where}"
        )
    return names[name]


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:_NAME_PART].strip("-") or "x"


def _digest(text: str, length: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]
