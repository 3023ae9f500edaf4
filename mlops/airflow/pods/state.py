"""What the platform needs to know of a pod, read from its JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from mlops.airflow.pods.manifest import CONTAINER, SIZE

_UNREACHABLE_AFTER = 60.0  # seconds past its grace period at which a deleted pod's node is taken for gone


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
    deletion_asked: float | None  # Unix time at which its deletion was asked for; 0 where nobody knows that any more
    status: Mapping[str, Any]
    image: str | None = None  # of its base container

    @classmethod
    def of(cls, pod: Mapping[str, Any], before: PodState | None = None) -> Self:
        """The state that an object of the API shows. before: what was known of a pod of this name until then."""
        metadata, spec = pod["metadata"], pod.get("spec", {})
        base: Mapping[str, Any] = next(
            (container for container in spec.get("containers", []) if _is_base(container)), {}
        )
        deletion = metadata.get("deletionTimestamp")
        return cls(
            name=metadata["name"],
            uid=metadata["uid"],
            created=unix_time(metadata["creationTimestamp"]),
            node=spec.get("nodeName"),
            size=metadata.get("labels", {}).get(SIZE),
            memory_limit=(base.get("resources", {}).get("limits") or {}).get("memory"),
            deletion=unix_time(deletion) if deletion else None,
            deletion_asked=_deletion_asked(metadata, before),
            status=pod.get("status", {}),
            image=base.get("image"),
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
            return unix_time(at)
        changes = [condition.get("lastTransitionTime") for condition in self.status.get("conditions") or []]
        return max([self.created, *(unix_time(change) for change in changes if change)])

    def unreachable(self, now: float) -> bool:
        """Whether it was deleted, yet its node did not confirm its end in time."""
        return self.deletion is not None and now > self.deletion + _UNREACHABLE_AFTER


def unix_time(timestamp: str) -> float:
    """Seconds since 1970 of a time as Kubernetes writes it (RFC 3339)."""
    return datetime.fromisoformat(timestamp).timestamp()


def _deletion_asked(metadata: Mapping[str, Any], before: PodState | None) -> float | None:
    """When a pod's deletion was asked for.

    Once its containers have ended the kubelet has it deleted without a grace period, and the API server puts that
    moment in the place of the first one, which only who saw the pod before still knows.
    """
    if not metadata.get("deletionTimestamp"):
        return None
    due, grace = unix_time(metadata["deletionTimestamp"]), float(metadata.get("deletionGracePeriodSeconds") or 0)
    if grace:
        return due - grace
    if before is None or before.uid != metadata["uid"]:
        return 0.0
    if before.deletion_asked is not None:
        return before.deletion_asked
    return due if "terminated" in before.container else 0.0


def _is_base(container: Mapping[str, Any]) -> bool:
    return container.get("name") == CONTAINER
