"""How a pod ended and what that means for its task: pure functions of its state.

The container's state decides. The pod's phase follows it only after one to two seconds, and exit code 0 alone is not
success: a container that was told to end may well exit with 0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mlops.airflow.pods.state import PodState, unix_time
from mlops.log_lines import readable
from mlops.result import EXIT_REFUSED, EXIT_SKIPPED, LIMIT
from mlops.waiting import PERMANENT, TRANSIENT

_CAUSE_LENGTH = 1000  # characters of a container's last words in the cause; its log has all of them
_SIGNALS = {137: "SIGKILL", 139: "SIGSEGV", 143: "SIGTERM"}


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


def waiting_problem(pod: PodState) -> tuple[str, bool] | None:
    """What keeps the container from starting, and whether that is permanent; None where nothing is known to."""
    waiting = pod.container.get("waiting", {})
    reason = waiting.get("reason")
    if reason in PERMANENT or reason in TRANSIENT:
        return f"{reason}: {waiting.get('message') or 'no message'}", reason in PERMANENT
    return None


def not_started(pod: PodState | None) -> str:
    """Why a pod has not started, in the words of the scheduler or the kubelet."""
    if pod is None:
        return "it was never seen"
    blocked = waiting_problem(pod)
    if blocked:
        return blocked[0]
    for condition in pod.status.get("conditions") or []:
        if condition.get("status") == "False" and condition.get("message"):
            return f"{condition.get('reason')}: {condition['message']}"
    return str(pod.container.get("waiting", {}).get("reason") or f"phase {pod.status.get('phase', 'unknown')}")


def _of_container(pod: PodState, terminated: Mapping[str, Any]) -> Outcome:
    code, message = terminated.get("exitCode"), readable((terminated.get("message") or "").strip())
    if _was_deleted(pod, terminated):
        return failed(f"the pod was deleted while it ran (exit code {code}){_disruption(pod)}")
    if code == 0 and not _was_stopped(pod):
        return _success(message)
    if code == EXIT_SKIPPED and (reason := _skip_reason(message)) is not None:
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
    return Outcome("failed", f"{cause}: {message[-_CAUSE_LENGTH:]}" if message else cause, retry=code != EXIT_REFUSED)


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
    if pod.deletion_asked is None:
        return False
    finished = terminated.get("finishedAt")
    return finished is None or unix_time(finished) >= pod.deletion_asked


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


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
