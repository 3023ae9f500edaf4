"""What commands measured, for Prometheus: a pod ends before it could be scraped, so it pushes to the push gateway.

Counters go into a group of the pod's own (job `maestro-pod`): no pod overwrites another's, and all of them are added up
by who asks. Gauges go into one group of what they are of (job `maestro-newest`), which the next run of the task
replaces. The gateway forgets nothing by itself, so one pod in some removes what is old. docs/operations.md tells how to
ask for these numbers.
"""

from __future__ import annotations

import logging
import re
import socket
import zlib
from collections.abc import Iterator, Mapping
from http.client import HTTPException
from threading import Thread
from time import time
from typing import TYPE_CHECKING
from urllib.request import urlopen

from mlops.config import PushgatewaySettings, RunIdentity
from mlops.measure import METRICS, Measured, Series

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

PATIENCE = 2.0  # seconds that a gateway may cost a pod in all
_POD, _NEWEST = "maestro-pod", "maestro-newest"
# Seconds since its last push after which a group is removed. What a pod counted was scraped many times by then. What
# was measured last is shown until the next run; the longest schedule is a week.
KEPT = {_POD: 3600.0, _NEWEST: 8 * 86400.0}
_SWEEPERS = 8  # one pod in so many looks for old groups: to read all of them takes longer than to push one

Key = dict[str, str]

log = logging.getLogger(__name__)


def push(measured: Measured, settings: PushgatewaySettings) -> None:
    """Pushes what a command measured. Raises nothing, and waits for the gateway for PATIENCE at most."""
    # Imported here, after the work of the command and where there is a gateway: it takes as long as a light command.
    from prometheus_client import push_to_gateway

    url, instance = f"http://{settings.host}:{settings.port}", socket.gethostname()
    groups = list(_groups(measured, instance))
    failures: list[Exception] = []

    def attempt() -> None:
        try:
            for job, key, registry in groups:
                push_to_gateway(url, job, registry, key, timeout=PATIENCE)
            if is_sweeper(instance):
                sweep(url)
        except (OSError, HTTPException, ValueError) as error:
            failures.append(error)

    # No time-out of a socket bounds the look-up of a name, nor an answer of which a byte comes now and then.
    pushing = Thread(target=attempt, name="push", daemon=True)
    pushing.start()
    pushing.join(PATIENCE)
    if pushing.is_alive():
        failures.append(TimeoutError(f"no answer within {PATIENCE:g} s"))
    if failures:
        log.warning(
            "the push gateway at %s did not take all that was measured here (%s): look at its pod, or correct "
            "global.services.pushgateway",
            url,
            failures[0],
        )


def is_sweeper(instance: str) -> bool:
    """Whether the pod of this name is one of those that look for old groups."""
    return zlib.crc32(instance.encode()) % _SWEEPERS == 0


def sweep(url: str) -> None:
    """Removes the groups of task pods that nobody has pushed to for longer than they are kept."""
    from prometheus_client import delete_from_gateway

    for job, key, pushed in _pushed(url):
        if job in KEPT and pushed < time() - KEPT[job]:
            delete_from_gateway(url, job, key, timeout=PATIENCE)


def _pushed(url: str) -> Iterator[tuple[str, Key, float]]:
    """Job, key and Unix time of the last push, of each group."""
    from prometheus_client.parser import text_string_to_metric_families

    with urlopen(f"{url}/metrics", timeout=PATIENCE) as answer:  # noqa: S310 - its scheme is written above
        lines = re.findall(r"^push_time_seconds\{.*", answer.read().decode(), re.MULTILINE)
    for family in text_string_to_metric_families("\n".join([*lines, ""])):
        for sample in family.samples:
            # It shows an empty instance where a group has none, and an empty label is no part of a group's name.
            key = {name: value for name, value in sample.labels.items() if value and name != "job"}
            yield sample.labels["job"], key, sample.value


def _groups(measured: Measured, instance: str) -> Iterator[tuple[str, Key, CollectorRegistry]]:
    """Job, key and content of each group."""
    identity = RunIdentity.if_told()
    common = {"group": measured.group, "command": measured.command}
    common |= {"dag_id": identity.dag_id, "task_id": identity.task_id} if identity else {}
    run = {"run_id": identity.run_id} if identity else {}
    yield _POD, {**common, **run, "instance": instance}, _registry(measured.counters)
    by_subject: dict[tuple[str, str], dict[Series, float]] = {}
    for (name, values), value in measured.gauges.items():
        of = METRICS[name].of or ""
        subject = dict(zip(METRICS[name].labels, values, strict=True))[of]
        by_subject.setdefault((of, subject), {})[name, values] = value
    for (of, subject), gauges in by_subject.items():
        yield _NEWEST, {**common, of: subject}, _registry(gauges)


def _registry(series: Mapping[Series, float]) -> CollectorRegistry:
    from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics

    # When something was counted is said by the group's push_time_seconds.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    made: dict[str, Counter | Gauge] = {}
    for (name, values), value in series.items():
        metric = METRICS[name]
        if name not in made:
            kind = Gauge if metric.of else Counter
            made[name] = kind(name, metric.help, metric.labels, registry=registry)
        one = made[name].labels(*values) if values else made[name]
        one.inc(value)
    return registry
