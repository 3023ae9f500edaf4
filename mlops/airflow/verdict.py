"""How a pod stands and what that means for its task: pure functions of the pod's JSON.

The container's state decides. The pod's phase follows it only after one to two seconds, and exit code 0 alone is not
success: a container that was told to end may well exit with 0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Self

from mlops.airflow.pod import CONTAINER, SIZE
from mlops.result import LIMIT, REFUSED, SKIPPED

# The kubelet gives these again and again, however long one waits.
_HOPELESS = {"ErrImageNeverPull", "InvalidImageName"}
# These may pass: a registry is away, a Secret is about to be written. They are given a grace.
_HINDERED = {
    "ErrImagePull",
    "ImagePullBackOff",
    "ImageInspectError",
    "RegistryUnavailable",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
}
_CAUSE_LENGTH = 1000  # characters of a container's last words in the cause; its log has all of them
_UNREACHABLE_AFTER = 60.0  # seconds past its grace period at which a deleted pod's node is taken for gone
_SIGNALS = {137: "SIGKILL", 139: "SIGSEGV", 143: "SIGTERM"}


@dataclass(frozen=True)
class PodState:
    """What the platform needs to know of a pod: small, since one is kept for each pod of the namespace."""

    name: str
    uid: str
    created: float  # Unix time
    node: str | None
    size: str | None
    memory_limit: str | None
    deletion: float | None  # Unix time at which its grace period ends, once it is being deleted
    grace: float  # seconds
    status: Mapping[str, Any]

    @classmethod
    def of(cls, pod: Mapping[str, Any]) -> Self:
        metadata, spec = pod["metadata"], pod.get("spec", {})
        limits = next((c.get("resources", {}).get("limits") for c in spec.get("containers", []) if _is_base(c)), None)
        deletion = metadata.get("deletionTimestamp")
        return cls(
            name=metadata["name"],
            uid=metadata["uid"],
            created=_unix(metadata["creationTimestamp"]),
            node=spec.get("nodeName"),
            size=metadata.get("labels", {}).get(SIZE),
            memory_limit=(limits or {}).get("memory"),
            deletion=_unix(deletion) if deletion else None,
            grace=float(metadata.get("deletionGracePeriodSeconds") or 0),
            status=pod.get("status", {}),
        )

    @property
    def container(self) -> Mapping[str, Any]:
        """The state of the base container: one of running, waiting and terminated, or nothing yet."""
        statuses = self.status.get("containerStatuses") or []
        return next((status.get("state", {}) for status in statuses if _is_base(status)), {})

    @property
    def started(self) -> bool:
        """Whether the container ran at all, so that it may have a log."""
        terminated = self.container.get("terminated")
        return "running" in self.container or (terminated is not None and terminated.get("startedAt") is not None)

    @property
    def finished(self) -> float | None:
        """Unix time at which the pod came to its end; None for one that may still run."""
        if self.status.get("phase") not in ("Succeeded", "Failed"):
            return None
        at = self.container.get("terminated", {}).get("finishedAt")
        if at:
            return _unix(at)
        changes = [condition.get("lastTransitionTime") for condition in self.status.get("conditions") or []]
        return max([self.created, *(_unix(change) for change in changes if change)])

    def unreachable(self, now: float) -> bool:
        """Whether it was deleted, yet its node did not confirm its end in time."""
        return self.deletion is not None and now > self.deletion + _UNREACHABLE_AFTER


@dataclass(frozen=True)
class Outcome:
    """How a task ends. A success has a result where its command wrote one; a skip has its reason as the result."""

    state: Literal["success", "skipped", "failed"]
    cause: str = ""
    result: Mapping[str, Any] | None = None
    retry: bool = True  # whether another try of a failed task may end better


def failed(cause: str) -> Outcome:
    return Outcome("failed", cause)


def outcome(pod: PodState, now: float) -> Outcome | None:
    """How the pod ended; None while it has not."""
    terminated = pod.container.get("terminated")
    if terminated is not None:
        return _of_container(pod, terminated)
    if pod.status.get("phase") == "Failed":
        return failed(f"the pod failed before its container ended: {_pod_reason(pod) or 'no reason was given'}")
    if pod.unreachable(now):
        return failed(
            f"the pod was deleted and its node {pod.node} did not confirm its end: the node is gone or cut off"
            + _disruption(pod)
        )
    return None


def vanished(pod: PodState | None) -> Outcome:
    """How a pod ended that is no more, by its last known state."""
    terminated = pod.container.get("terminated") if pod else None
    if pod is not None and terminated is not None:
        return _of_container(pod, terminated)
    return failed(
        "the pod was deleted before the end of its container was seen: by hand, by its node's removal, or by a drain"
        + (_disruption(pod) if pod else "")
    )


def hindrance(pod: PodState) -> tuple[str, bool] | None:
    """What keeps the container from starting, and whether waiting is hopeless; None where nothing is known to."""
    waiting = pod.container.get("waiting", {})
    reason = waiting.get("reason")
    if reason in _HOPELESS or reason in _HINDERED:
        return f"{reason}: {waiting.get('message') or 'no message'}", reason in _HOPELESS
    return None


def not_started(pod: PodState | None) -> str:
    """Why a pod has not started, in the words of the scheduler or the kubelet."""
    if pod is None:
        return "it was never seen"
    blocked = hindrance(pod)
    if blocked:
        return blocked[0]
    for condition in pod.status.get("conditions") or []:
        if condition.get("status") == "False" and condition.get("message"):
            return f"{condition.get('reason')}: {condition['message']}"
    return str(pod.container.get("waiting", {}).get("reason") or f"phase {pod.status.get('phase', 'unknown')}")


def _of_container(pod: PodState, terminated: Mapping[str, Any]) -> Outcome:
    code, message = terminated.get("exitCode"), (terminated.get("message") or "").strip()
    if _was_deleted(pod, terminated):
        return failed(f"the pod was deleted while it ran (exit code {code}){_disruption(pod)}")
    if code == 0 and not _was_stopped(pod):
        return _success(message)
    if code == SKIPPED and (reason := _skip_reason(message)) is not None:
        return Outcome("skipped", reason, {"skipped": reason})
    if terminated.get("reason") == "OOMKilled":
        return failed(
            f"out of memory: the container was killed at its limit of {pod.memory_limit or 'memory'} "
            f'(size="{pod.size}"): give the task a larger size=, or raise taskSizes.{pod.size} in the values'
        )
    pod_reason = _pod_reason(pod)
    cause = f"the pod was stopped: {pod_reason}; " if pod_reason else ""
    signal = f", {_SIGNALS[code]}" if code in _SIGNALS else ""
    cause += f"the container exited with {code} ({terminated.get('reason') or 'no reason'}{signal})"
    return Outcome("failed", f"{cause}: {message[-_CAUSE_LENGTH:]}" if message else cause, retry=code != REFUSED)


def _success(message: str) -> Outcome:
    if not message:
        return Outcome("success")
    result = _json(message)
    if isinstance(result, dict):
        return Outcome("success", result=result)
    cut = f" (it may have been cut at {LIMIT} bytes)" if len(message.encode()) >= LIMIT - 3 else ""
    return failed(
        f"the container exited with 0, but its termination message is not a JSON object{cut}: {message[:200]!r}"
    )


def _skip_reason(message: str) -> str | None:
    skipped = _json(message)
    reason = skipped.get("skipped") if isinstance(skipped, dict) else None
    return reason if isinstance(reason, str) and reason else None


def _was_deleted(pod: PodState, terminated: Mapping[str, Any]) -> bool:
    """Whether the container ended after its pod's deletion was asked for."""
    if pod.deletion is None:
        return False
    finished = terminated.get("finishedAt")
    return finished is None or _unix(finished) >= pod.deletion - pod.grace


def _was_stopped(pod: PodState) -> bool:
    """Whether the kubelet ended the pod: evicted, past its own deadline, or its node was shut down."""
    return pod.status.get("phase") == "Failed" and bool(pod.status.get("reason"))


def _pod_reason(pod: PodState) -> str:
    """The pod's own reason, such as "Evicted: The node was low on resource: memory", or nothing."""
    reason, message = pod.status.get("reason"), pod.status.get("message")
    return ": ".join(part for part in (reason, message) if part)


def _disruption(pod: PodState) -> str:
    """Who had the pod deleted, where Kubernetes noted it: preemption, a drain, a taint."""
    for condition in pod.status.get("conditions") or []:
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            return f": {condition.get('reason')}: {condition.get('message')}"
    return ""


def _is_base(container: Mapping[str, Any]) -> bool:
    return container.get("name") == CONTAINER


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _unix(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()
