"""The installed release seen from outside the cluster: kubectl, its objects by their labels, and what is waited for."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

RELEASE = os.environ.get("RELEASE", "maestro")
NAMESPACE = os.environ.get("NAMESPACE", "maestro")


class NotInstalled(Exception):
    """Something the platform should have is not in the cluster. The message says what and what to do."""


def kubectl(*arguments: str, check: bool = True, stdin: str | None = None) -> str:
    """The output of a kubectl command in the platform's namespace; raises NotInstalled with its error."""
    command = ["kubectl", "--namespace", NAMESPACE, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, input=stdin)
    if check and result.returncode:
        raise NotInstalled(f"kubectl {' '.join(arguments)}: {result.stderr.strip()} (install with 'make install')")
    return result.stdout


def selector(component: str) -> str:
    """The labels by which the objects and pods of a component are found; charts/common gives them."""
    return f"app.kubernetes.io/instance={RELEASE},app.kubernetes.io/component={component}"


def find(kind: str, component: str, namespace: str = NAMESPACE) -> dict[str, Any]:
    """A component's object of this kind, whatever it is called; raises NotInstalled where there is none or several."""
    asked = ("get", kind, "--namespace", namespace, "-l", selector(component), "-o", "json")
    found: list[dict[str, Any]] = json.loads(kubectl(*asked))["items"]
    where = f'{kind} of release "{RELEASE}" with component "{component}" in namespace "{namespace}"'
    if not found:
        raise NotInstalled(
            f"no {where}: install it with 'make install', or name another release by RELEASE and NAMESPACE"
        )
    if len(found) > 1:
        names = ", ".join(each["metadata"]["name"] for each in found)
        raise NotInstalled(f"more than one {where} ({names}): take these labels off what the charts have not made")
    return found[0]


def object_name(kind: str, component: str, namespace: str = NAMESPACE) -> str:
    """`kind/name` of the object that `find` finds, as kubectl takes it."""
    return f"{kind}/{find(kind, component, namespace)['metadata']['name']}"


def wait_until(condition: Callable[[], T], seconds: float, what: str, every: float = 0.5) -> T:
    """The first true value of the condition; raises TimeoutError that names what was waited for."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        time.sleep(every)


def succeeded(job: str, seconds: float, what: str) -> bool:
    """Waits for the end of the Kubernetes Job `job`; whether it is complete and not failed."""

    def ended() -> set[str]:
        conditions = json.loads(kubectl("get", job, "-o", "json"))["status"].get("conditions", [])
        return {condition["type"] for condition in conditions if condition["status"] == "True"} & {"Complete", "Failed"}

    return "Complete" in wait_until(ended, seconds, what)
