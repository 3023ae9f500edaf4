"""What is done to the platform while it works: each a name, what is done, what puts it back, and when it is over."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from infrastructure import install
from infrastructure.local.config import PID_FILE
from infrastructure.release import NAMESPACE, RELEASE, NotInstalled, find, kubectl, object_name, selector, wait_until
from infrastructure.rotate import ROTATIONS, SECONDS, is_generated, rotate
from tests.e2e.disturb import KILLED, PATIENCE, away, ready
from tests.e2e.runs import kubernetes

AWAY_SECONDS = 120
WORKER = "airflow-worker"
BURST = "chaos_burst"
BURST_SECONDS = 900
# Of Celery's workers: seconds until they are as few as before, an autoscaler's patience among them.
SHRUNK_SECONDS = 600
# All whose pods are killed, in charts/; a release has those that its values ask for.
COMPONENTS = (
    *("airflow-api-server", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer", WORKER),
    *("postgresql", "postgresql-pooler", "redis", "minio", "mlflow", "feast", "model-server"),
    *("sensor-trainer", "sensor-trainer-worker"),
    *("prometheus", "alertmanager", "pushgateway", "statsd", "postgresql-exporter", "redis-exporter", "pod-states"),
)
# Of which a release may have more, each with a name of its own behind this one.
FAMILIES = (WORKER, "model-server")
NODE_PROCESSES = ("kubelet", "containerd")
# Another value that every part of Airflow reads at its start, and that changes nothing else here.
CHANGED = {"airflow": {"config": {"core": {"max_active_runs_per_dag": "63"}}}}

Object = dict[str, Any]


def _nothing() -> None:
    """Where a fault is over by itself."""


@dataclass(frozen=True)
class Fault:
    """inflict: gives a remark for the table, or None. undo: done in any case, also after an interrupt.

    there: whether the release has what it is about. short: whether the gate may draw it.
    """

    inflict: Callable[[], str | None]
    undo: Callable[[], None] = _nothing
    there: Callable[[], object] = lambda: True
    short: bool = False


@dataclass(frozen=True)
class Release:
    """What the faults are told of. values: the files that it is installed by."""

    values: tuple[str, ...]
    trigger: Callable[[str], str]
    state: Callable[[str, str], str]


def faults(release: Release) -> dict[str, Fault]:
    """All there are, by name."""
    upgraded = partial(_upgrade, release)
    local = os.environ.get("CLUSTER", "local") == "local"
    drained = Drained()
    away_from_s3 = partial(_away_for, "minio")
    return {
        **{
            f"kill-{component}": Fault(partial(_kill, component), there=partial(ready, component), short=True)
            for component in COMPONENTS
        },
        **{
            f"kill-{name}": Fault(partial(_kill_process, name), there=lambda: local, short=True)
            for name in NODE_PROCESSES
        },
        "drain-worker": Fault(drained.inflict, drained.undo, partial(ready, WORKER), short=True),
        "redis-flush": Fault(_flush, there=partial(ready, WORKER), short=True),
        "postgresql-restart": Fault(_restart_postgresql, there=partial(ready, "postgresql"), short=True),
        "s3-away": Fault(away_from_s3, there=partial(ready, "minio")),
        **{f"rotate-{name}": Fault(partial(rotate, name), there=partial(_generated, name)) for name in ROTATIONS},
        "upgrade": Fault(upgraded, partial(_install, release)),
        "roll-back": Fault(partial(_roll_back, release), partial(_install, release)),
        "burst": Fault(partial(_burst, release), there=partial(ready, WORKER)),
    }


# Pods


def covers(name: str, component: str) -> bool:
    """Whether the pods of a component are killed by the fault that is called by this one's name."""
    return component == name or (name in FAMILIES and component.startswith(f"{name}-"))


def _kill(name: str) -> None:
    """Each pod of a component, one after the other, without a moment to end by itself."""
    listing = ("get", "deployments,statefulsets", "-l", f"app.kubernetes.io/instance={RELEASE}", "-o", "json")
    labels = (entry["metadata"]["labels"] for entry in json.loads(kubectl(*listing))["items"])
    for component in sorted({each["app.kubernetes.io/component"] for each in labels}):
        if covers(name, component):
            _kill_each(component)


def _kill_each(component: str) -> None:
    for pod in kubernetes().list_namespaced_pod(NAMESPACE, label_selector=selector(component)).items:
        before = ready(component)
        kubectl("delete", "pod", pod.metadata.name, "--ignore-not-found", *KILLED)
        another = partial(_as_many_without, component, before, pod.metadata.uid)
        wait_until(another, PATIENCE, f"another pod of {component}")


def _as_many_without(component: str, before: set[str], killed: str) -> bool:
    """As before, or as an autoscaler wants them by now."""
    now = ready(component)
    return killed not in now and len(now) >= min(len(before), _wanted(component))


def _wanted(component: str) -> int:
    listing = ("get", "deployments,statefulsets", "-l", selector(component), "-o", "json")
    return sum(each["spec"]["replicas"] for each in json.loads(kubectl(*listing))["items"])


def _restart_postgresql() -> None:
    """As a drained node does it: it is asked to end, and comes back on its volume."""
    before = ready("postgresql")
    kubectl("delete", "pod", "-l", selector("postgresql"))
    wait_until(lambda: ready("postgresql") - before, PATIENCE, "the return of PostgreSQL")


def _away_for(component: str) -> None:
    with away(component, kind="statefulset"):
        time.sleep(AWAY_SECONDS)


# The node


def _kill_process(name: str) -> str:
    """One that the node's first process starts again."""
    killed = node_process(name)
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: _running(name) not in (None, killed), 60, f"another {name}")
    return f"pid {killed}"


def node_process(name: str) -> int:
    """The number that this machine has for a process which the local node's first process started.

    Raises NotInstalled where there is none.
    """
    running = _running(name)
    if running is None:
        raise NotInstalled(f"the local node has no process {name}: start it with 'make cluster-up'")
    return running


def _running(name: str) -> int | None:
    outer = int(PID_FILE.read_text().split()[0])
    for first in _children(outer):
        for process in _children(first):
            if Path(f"/proc/{process}/comm").read_text().strip() == name:
                return process
    return None


def _children(process: int) -> Iterator[int]:
    try:
        listing = Path(f"/proc/{process}/task/{process}/children").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return
    yield from map(int, listing.split())


# Workers


class Drained:
    """One worker less than there are at least, by whatever scales them; they are as many as before after `undo`."""

    # What scales them, and its fields for how few and how many there may be.
    SCALERS: Mapping[str, tuple[str, ...]] = {
        "scaledobject": ("minReplicaCount", "maxReplicaCount"),
        "hpa": ("minReplicas", "maxReplicas"),
        "deployment": ("replicas",),
    }

    def __init__(self) -> None:
        self._before: tuple[str, Object] | None = None

    def inflict(self) -> str:
        name, fields = self._scaler()
        spec = json.loads(kubectl("get", name, "-o", "json"))["spec"]
        self._before = name, {field: spec[field] for field in fields}
        fewer = max(1, spec[fields[0]] - 1)
        self._set(name, dict.fromkeys(fields, fewer))
        pods = ("get", "pods", "-l", selector(WORKER), "-o", "name")
        wait_until(
            lambda: len(kubectl(*pods).split()) <= fewer, SHRUNK_SECONDS, f"the end of all but {fewer} workers", 1
        )
        return f"{fewer} workers left"

    def undo(self) -> None:
        if self._before:
            self._set(*self._before)
            self._before = None

    def _scaler(self) -> tuple[str, tuple[str, ...]]:
        for kind, fields in self.SCALERS.items():
            # A cluster without KEDA has no such kind.
            if found := kubectl("get", kind, "-l", selector(WORKER), "-o", "name", check=False).split():
                return found[0], fields
        raise NotInstalled("the release has no workers: set airflow.executor to CeleryExecutor")

    @staticmethod
    def _set(name: str, spec: Object) -> None:
        kubectl("patch", name, "--type=merge", "--patch", json.dumps({"spec": spec}))


def _burst(release: Release) -> str:
    """Sixty tasks that hold a place in a worker each: workers become more, and as few as before when these have ended.

    Raises NotInstalled where they do not.
    """
    few = most = len(ready(WORKER))
    run = release.trigger(BURST)

    def ended() -> str | None:
        nonlocal most
        most = max(most, len(ready(WORKER)))
        state = release.state(BURST, run)
        return state if state in ("success", "failed") else None

    state = wait_until(ended, BURST_SECONDS, f"the end of {run}", 2)
    if state != "success":
        raise NotInstalled(f"run {run} of {BURST} is {state}: look at its tasks")
    if most <= few:
        raise NotInstalled(f"there were {most} workers for sixty tasks, and {few} before: look at what scales them")
    started = time.monotonic()
    wait_until(lambda: len(ready(WORKER)) <= few, SHRUNK_SECONDS, f"no more than {few} workers again", 2)
    return f"{few} workers, {most} for sixty tasks, {few} again after {time.monotonic() - started:.0f} s"


def _flush() -> str:
    """Celery's database of Redis, messages and all, as chart values number it."""
    described = ["helm", "get", "values", RELEASE, "--namespace", NAMESPACE, "--all", "--output", "json"]
    values = json.loads(subprocess.run(described, capture_output=True, text=True, check=True).stdout)
    database = str(values["airflow"]["broker"]["database"])
    asked = ("exec", object_name("statefulset", "redis"), "--", "redis-cli", "-n", database)
    keys = kubectl(*asked, "DBSIZE").strip()
    if (said := kubectl(*asked, "FLUSHDB").strip()) != "OK":
        raise NotInstalled(f"Redis answered {said!r} to FLUSHDB: look at its log")
    return f"{keys} keys"


# Releases


def _generated(name: str) -> bool:
    """Whether the release has this Secret and made it itself."""
    try:
        secret = find("secret", ROTATIONS[name].secret)
    except NotInstalled:
        return False
    return is_generated(secret) and ROTATIONS[name].key in secret.get("data", {})


@contextmanager
def _changed() -> Iterator[str]:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        json.dump(CHANGED, file)
        file.flush()
        yield file.name


def _upgrade(release: Release) -> str:
    started = time.monotonic()
    with _changed() as file:
        _install(release, file)
    return f"{time.monotonic() - started:.0f} s"


def _install(release: Release, *more: str) -> None:
    if code := install.main([*release.values, *more]):
        raise NotInstalled(f"helm upgrade ended with {code}: what it said stands above")


def _roll_back(release: Release) -> str:
    # Its Secrets are those of now: with those of before a rotation it would bring the old passwords back.
    _install(release)
    _upgrade(release)
    started = time.monotonic()
    command = ["helm", "rollback", RELEASE, "--namespace", NAMESPACE, "--wait", "--timeout", f"{SECONDS}s"]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise NotInstalled(f"helm rollback: {done.stderr.strip()[-500:]}")
    return f"{time.monotonic() - started:.0f} s"


# When it is over


def unsettled(workloads: Iterable[Object]) -> list[str]:
    """The Deployments and StatefulSets of which not all pods are there, new and ready: a word each."""
    said = []
    for workload in workloads:
        status, wanted = workload.get("status", {}), workload["spec"].get("replicas", 1)
        counts = (status.get("readyReplicas", 0), status.get("updatedReplicas", 0), status.get("replicas", 0))
        if counts != (wanted,) * 3 or status.get("observedGeneration", 0) < workload["metadata"]["generation"]:
            said.append(f"{workload['metadata']['name']}: {counts[0]} of {wanted}")
    return said


def unhealthy(health: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The parts of Airflow that do not say that they are well. health: as its API has it."""
    return sorted(name for name, part in health.items() if part.get("status") not in ("healthy", None))
