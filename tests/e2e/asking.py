"""Pods of a test's own that ask services, as a task or as a stranger would."""

import json
import subprocess
from contextlib import contextmanager

from infrastructure.release import NAMESPACE, RELEASE, find

TASK = {
    "app.kubernetes.io/instance": RELEASE,
    "app.kubernetes.io/part-of": "maestro",
    "app.kubernetes.io/component": "task",
}


def pod(name, labels, command=("sleep", "1200"), of="model-server"):
    """What the namespace lets in: a pod without rights. of: the Deployment whose image it has."""
    image = find("deployment", of)["spec"]["template"]["spec"]["containers"][0]["image"]
    container = {
        "name": "probe",
        "image": image,
        "command": [*command],
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    user = {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}}
    spec = {"automountServiceAccountToken": False, "terminationGracePeriodSeconds": 0, "securityContext": user}
    metadata = {"name": name, "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {**spec, "containers": [container]}}


def elsewhere(*arguments, namespace, stdin=None):
    command = ["kubectl", "--namespace", namespace, *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=True).stdout


@contextmanager
def asking_pod(name, labels, namespace=NAMESPACE):
    """A pod, and what runs a program of Python in it and gives what that prints."""
    elsewhere("apply", "-f", "-", namespace=namespace, stdin=json.dumps(pod(name, labels)))
    try:
        elsewhere("wait", f"pod/{name}", "--for=condition=Ready", "--timeout=180s", namespace=namespace)

        def run(program, *arguments, stdin=None):
            command = ("exec", "-i", name, "--", "python", "-c", program, *arguments)
            return elsewhere(*command, namespace=namespace, stdin=stdin)

        yield run
    finally:
        elsewhere("delete", "pod", name, "--wait=false", namespace=namespace)
