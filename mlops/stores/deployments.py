"""A Kubernetes Deployment that is rolled from one model version to another."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mlops import waiting
from mlops.result import Failure

if TYPE_CHECKING:
    from kubernetes.client import V1Deployment, V1Pod

# On the pod template; the downward API hands them on as MODEL_VERSION and MODEL_VERSION_OF.
VERSION_ANNOTATION, MODEL_ANNOTATION = "maestro/model-version", "maestro/model-name"
_POLL = 1.0  # seconds
_RESTARTS = 2  # a container that ended this often will not come up by itself


class NotServed(Failure):
    """A version that does not come up or does not answer, and whose place the one before has again."""


class Overtaken(Failure):
    """Somebody rolled the Deployment to another version while this one was waited for."""


class Deployment:
    """One Deployment. Each method raises Failure where the API refuses or there is no such Deployment."""

    def __init__(self, namespace: str, name: str) -> None:
        from kubernetes import client, config

        if "KUBERNETES_SERVICE_HOST" in os.environ:
            config.load_incluster_config()
        else:
            config.load_kube_config()
        self._namespace = namespace
        self._name = name
        self._apps = client.AppsV1Api()
        self._core = client.CoreV1Api()

    def replicas(self) -> int:
        return self._read().spec.replicas or 0

    def model_version(self, model: str) -> str | None:
        """The version that the pods are to have; None where none was rolled yet, or one of another model."""
        annotations = self._read().spec.template.metadata.annotations or {}
        return annotations.get(VERSION_ANNOTATION) if annotations.get(MODEL_ANNOTATION) in (None, model) else None

    def set_model_version(self, model: str, version: str | None) -> None:
        """Starts a rollout, unless the pods have this version already. None lets them serve the alias `production`."""
        template = {"metadata": {"annotations": {VERSION_ANNOTATION: version, MODEL_ANNOTATION: version and model}}}
        with self._explained():
            self._apps.patch_namespaced_deployment(self._name, self._namespace, {"spec": {"template": template}})

    def wait_for_rollout(self, version: str, timeout: float) -> None:
        """Returns when every pod is of this version and ready; raises Failure with the pods' cause where it cannot be.

        Raises Overtaken where the pods are to have another version by now. timeout: seconds from now.
        """
        deadline, blocked_since = time.monotonic() + timeout, None
        while True:
            deployment = self._read()
            wanted = (deployment.spec.template.metadata.annotations or {}).get(VERSION_ANNOTATION)
            if wanted != version:
                raise Overtaken(
                    f"deployment {self._name!r} was rolled to version {wanted} while version {version} was waited for: "
                    "deploy one at a time, in the pool 'deployment'"
                )
            if is_rolled_out(deployment):
                return
            pods = [pod for pod in self._pods() if (pod.metadata.annotations or {}).get(VERSION_ANNOTATION) == version]
            cause, passing, now = permanent_cause(pods), transient_cause(pods), time.monotonic()
            blocked_since = (blocked_since or now) if passing else None
            if cause is None and blocked_since and now >= blocked_since + waiting.GRACE:
                cause = passing
            if cause is None and now > deadline:
                why = passing or pods_wait_for(pods) or "its pods do not say why"
                cause = f"not ready after {timeout:.0f} s ({why})"
            if cause is not None:
                raise Failure(f"version {version} does not come up on deployment {self._name!r}: {cause}")
            time.sleep(_POLL)

    def _read(self) -> V1Deployment:
        with self._explained():
            return self._apps.read_namespaced_deployment(self._name, self._namespace)

    def _pods(self) -> list[V1Pod]:
        labels = self._read().spec.selector.match_labels
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        with self._explained():
            pods: list[V1Pod] = self._core.list_namespaced_pod(self._namespace, label_selector=selector).items
        return pods

    @contextmanager
    def _explained(self) -> Iterator[None]:
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        where = f"deployment {self._name!r} in namespace {self._namespace!r}"
        try:
            yield
        except HTTPError as error:
            raise Failure(f"the Kubernetes API cannot be reached for {where}: {error}") from error
        except ApiException as error:
            if error.status == 404:
                remedy = "enable the model server (modelServer.enabled) or correct global.services.modelServer"
                raise Failure(f"{where} not found: {remedy}") from error
            if error.status == 403:
                remedy = "run the step with the identity 'deployer', which the model server's chart makes"
                raise Failure(f"this pod may not change {where}: {remedy}") from error
            raise Failure(f"Kubernetes failed on {where}: {error.status} {error.reason}") from error


def is_rolled_out(deployment: V1Deployment) -> bool:
    """Whether all pods are of the newest template and ready, and no other pod is left."""
    wanted, status = deployment.spec.replicas or 0, deployment.status
    return (
        (status.observed_generation or 0) >= deployment.metadata.generation
        and (status.updated_replicas or 0) == wanted
        and (status.available_replicas or 0) == wanted
        and (status.replicas or 0) == wanted
    )


def permanent_cause(pods: list[V1Pod]) -> str | None:
    """Why these pods will not become ready by themselves; None where they may."""
    if cause := _waiting_for(pods, waiting.PERMANENT):
        return cause
    for pod in pods:
        for container in _containers(pod):
            ended = container.last_state.terminated if container.last_state else None
            if ended is not None and container.restart_count >= _RESTARTS:
                said = (ended.message or ended.reason or "").strip()
                return f"pod {pod.metadata.name} ended {container.restart_count} times, exit {ended.exit_code}: {said}"
    return None


def transient_cause(pods: list[V1Pod]) -> str | None:
    """What keeps these pods from starting and may pass; None where nothing does."""
    return _waiting_for(pods, waiting.TRANSIENT)


def pods_wait_for(pods: list[V1Pod]) -> str:
    """What each pod waits for, in one line."""
    states = []
    for pod in pods:
        reasons = [entry.state.waiting.reason for entry in _containers(pod) if entry.state.waiting is not None]
        unmet = [entry.message for entry in pod.status.conditions or () if entry.status == "False" and entry.message]
        states.append(f"{pod.metadata.name}: {pod.status.phase}, {'; '.join(reasons + unmet) or 'no reason given'}")
    return ", ".join(states)


def _waiting_for(pods: list[V1Pod], reasons: frozenset[str]) -> str | None:
    """The first container that waits for one of the reasons, with the kubelet's words."""
    for pod in pods:
        for container in _containers(pod):
            state = container.state.waiting
            if state is not None and state.reason in reasons:
                return f"pod {pod.metadata.name}: {state.reason}: {state.message or ''}".rstrip(": ")
    return None


def _containers(pod: V1Pod) -> list[Any]:
    return [*(pod.status.init_container_statuses or ()), *(pod.status.container_statuses or ())]
