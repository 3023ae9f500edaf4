"""Charts rendered by helm and read back as objects, so that a test asserts on fields and not on text."""

import json
import os
import pickle
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]

Object = dict[str, Any]

# libyaml where PyYAML was built with it: ten times faster.
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Refused(Exception):
    """Helm would not render. Its text holds helm's own words."""


def render(
    chart: str, values: Mapping[str, Any] | None = None, name: str = "maestro", namespace: str = "maestro"
) -> list[Object]:
    """The objects of a chart under charts/, hooks included. Raises Refused where helm refuses the values.

    Each is rendered once, random Secrets too; a caller may change what it gets.
    """
    pickled = _rendered(chart, json.dumps(values or {}, sort_keys=True), name, namespace)
    objects: list[Object] = pickle.loads(pickled)  # noqa: S301 - of this process
    return objects


@cache
def _rendered(chart: str, values: str, name: str, namespace: str) -> bytes:
    return pickle.dumps(render_anew(chart, json.loads(values), name, namespace))


def render_anew(
    chart: str, values: Mapping[str, Any] | None = None, name: str = "maestro", namespace: str = "maestro"
) -> list[Object]:
    """As render, by a call of helm each time."""
    return [document for document in yaml.load_all(template(chart, values, name, namespace), Loader) if document]


def template(
    chart: str,
    values: Mapping[str, Any] | None = None,
    name: str = "maestro",
    namespace: str = "maestro",
    *options: str,
) -> str:
    """What helm prints of a chart: each object below a comment that names its template."""
    command = ["helm", "template", name, str(ROOT / "charts" / chart), "--namespace", namespace, "--values", "-"]
    # As a cluster tells helm that has them; by itself it knows of groups only.
    command += ["--api-versions", "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy"]
    command += options
    result = subprocess.run(
        command,
        input=json.dumps(dict(values or {})),
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": f"{ROOT}/.build/bin:{os.environ['PATH']}"},
    )
    if result.returncode:
        raise Refused(result.stderr)
    return result.stdout


def find(objects: list[Object], kind: str, name: str) -> Object:
    """The one object of this kind and name."""
    (found,) = (entry for entry in objects if (entry["kind"], entry["metadata"]["name"]) == (kind, name))
    return found


def pod_template(entry: Object) -> Object | None:
    """That of the pods which an object makes, if it does."""
    spec = entry.get("spec") or {}
    made: Object | None = (spec["jobTemplate"]["spec"] if "jobTemplate" in spec else spec).get("template")
    return made


def pod_specs(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """Each pod that the objects are or make: `Kind/name` and its spec."""
    for entry in objects:
        where = f"{entry['kind']}/{entry['metadata']['name']}"
        if entry["kind"] == "Pod":
            yield where, entry["spec"]
        elif template := pod_template(entry):
            yield where, template["spec"]


def containers(spec: Object) -> list[Object]:
    return [*spec.get("initContainers", ()), *spec["containers"]]


def environment(container: Object) -> dict[str, Any]:
    """The environment of a container: a literal value, or where it is taken from."""
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container.get("env", ())}


def unrestricted(objects: list[Object]) -> list[str]:
    """What Pod Security "restricted" would refuse, and each container whose root file system can be written."""
    faults = []
    for where, spec in pod_specs(objects):
        pod = spec.get("securityContext", {})
        if not (pod.get("runAsNonRoot") and pod.get("seccompProfile", {}).get("type") == "RuntimeDefault"):
            faults.append(f"{where}: securityContext of the pod")
        if any(field in spec for field in ("hostNetwork", "hostPID", "hostIPC")):
            faults.append(f"{where}: a namespace of the host")
        faults += [f"{where}: volume {volume['name']}" for volume in spec.get("volumes", ()) if "hostPath" in volume]
        for container in containers(spec):
            own = container.get("securityContext", {})
            restricted = own.get("allowPrivilegeEscalation") is False and own.get("capabilities") == {"drop": ["ALL"]}
            if not (restricted and own.get("readOnlyRootFilesystem")):
                faults.append(f"{where}: securityContext of container {container['name']}")
    return faults
