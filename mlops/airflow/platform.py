"""What Airflow knows about pods: platform.yaml and the pod template, which the chart mounts, and its own token."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml
from airflow.sdk.exceptions import AirflowException

FOLDER = "MAESTRO_POD_CONFIG"  # environment key; the chart mounts the ConfigMap <release>-airflow-pods there
_DEFAULT_FOLDER = "/etc/maestro"
_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
_FIELDS = {
    "namespace",
    "images",
    "sizes",
    "identities",
    "environments",
    "failedPodTTL",
    "placements",
    "reportsBucket",
    "dataBucket",
}

# libyaml where PyYAML was built with it: parsing the two files takes 1 ms instead of 8.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Platform:
    """Where pods run and what they are made of.

    images: reference by name ("task"); sizes: Kubernetes resource requirements by name ("small");
    identities: service account by name ("deployer"); environments: what a container is told that opens a part of the
    platform, by the names in mlops/needs.py ("s3"), as entries of its environment; failed_pod_ttl: seconds that a pod
    is kept that failed; placements: what a size asks of a node, as `nodeSelector` and `tolerations` of a pod;
    reports_bucket: where reports for people lie; data_bucket: where deliveries lie; template: the
    Pod that every task pod starts from, with its work in the container `base`; owner: the reference to the object with
    which Kubernetes ends all of them, where there is one.
    """

    namespace: str
    images: Mapping[str, str]
    sizes: Mapping[str, Mapping[str, Any]]
    identities: Mapping[str, str]
    environments: Mapping[str, Sequence[Mapping[str, Any]]]
    failed_pod_ttl: float
    reports_bucket: str
    data_bucket: str
    template: Mapping[str, Any]
    placements: Mapping[str, Mapping[str, Any]]
    owner: Mapping[str, str] | None = None

    @classmethod
    def load(cls, folder: Path | None = None, token: Path = _TOKEN) -> Self:
        """Reads both files anew, so that an upgrade of the release holds from the next task on.

        token: this pod's, of the service account that shall own the pods; outside of a cluster there is none.
        Raises AirflowException where a file of the chart is missing or lacks a field.
        """
        folder = folder or Path(os.environ.get(FOLDER, _DEFAULT_FOLDER))
        declared, template = _read(folder / "platform.yaml"), _read(folder / "pod-template.yaml")
        if missing := sorted(_FIELDS - declared.keys()):
            raise AirflowException(
                f"{folder}/platform.yaml lacks {', '.join(missing)}: it is rendered by charts/airflow, run helm upgrade"
            )
        return cls(
            namespace=declared["namespace"],
            images=declared["images"],
            sizes=declared["sizes"],
            identities=declared["identities"] or {},
            environments={name: entries or () for name, entries in declared["environments"].items()},
            failed_pod_ttl=float(declared["failedPodTTL"]),
            reports_bucket=declared["reportsBucket"],
            data_bucket=declared["dataBucket"],
            template=template,
            placements=declared["placements"] or {},
            owner=_service_account(token, declared["namespace"]),
        )


def _service_account(token: Path, namespace: str) -> dict[str, str] | None:
    """Airflow's service account as an owner: `helm uninstall` deletes it, and Kubernetes then the pods.

    Of all objects of the release it alone says its UID unasked, in the token. An owner in another namespace does not
    count as one: Kubernetes would delete the pod at once.
    """
    try:
        _, payload, _ = token.read_text(encoding="ascii").split(".")
    except FileNotFoundError:
        return None
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["kubernetes.io"]
    if claims["namespace"] != namespace:
        return None
    return {"apiVersion": "v1", "kind": "ServiceAccount", **claims["serviceaccount"]}


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506
    except OSError as error:
        raise AirflowException(
            f"{path} cannot be read ({error.strerror}): the chart mounts it in every Airflow pod; "
            f"outside of one, point {FOLDER} at a folder that holds platform.yaml and pod-template.yaml"
        ) from None
    if not isinstance(content, dict):
        raise AirflowException(
            f"{path} does not hold a YAML mapping: it is rendered by charts/airflow, run helm upgrade"
        )
    return content
