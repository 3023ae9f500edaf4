"""Faults, one after the other, while work goes on; then whether each task's work was done exactly once in effect.

    python -m tests.chaos                          all faults, in an order drawn by a seed that is printed
    python -m tests.chaos --seed 7                 the same order again
    python -m tests.chaos --short                  two of those that are over within minutes
    python -m tests.chaos --fault redis-flush --fault kill-redis    these, in this order

It exits with 1 where a fault broke something or was not recovered from. The release is that of RELEASE and NAMESPACE,
installed by the files of VALUES.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError
from kubernetes.client import ApiException
from urllib3.exceptions import HTTPError

from infrastructure.release import NAMESPACE, RELEASE, NotInstalled, kubectl, wait_until
from tests.chaos import ledger, report
from tests.chaos.faults import Fault, Release, faults, unhealthy, unsettled
from tests.chaos.load import AWAY, Load
from tests.chaos.order import chosen, drawn
from tests.chaos.placed import placed
from tests.e2e.conftest import Services
from tests.e2e.disturb import PATIENCE, reconnect
from tests.e2e.runs import kubernetes

SHORT = 2
WIDTH = 3
SETTLED_SECONDS = 900
PARSED_SECONDS = 300
VALUES = os.environ.get("VALUES", "charts/maestro/values-minikube.yaml").split()
IMAGES = ".build/images.yaml"
REPORT = Path(".build/chaos.json")
# What a fault that was not inflicted or not put back is told by.
FAILED = (
    *(NotInstalled, TimeoutError, subprocess.CalledProcessError, json.JSONDecodeError, *AWAY),
    *(ApiException, HTTPError, BotoCoreError, ClientError),
)


class Chaos:
    """The faults of one run, and what became of them."""

    def __init__(self, services: Services, load: Load) -> None:
        self.services = services
        self.load = load
        self.outcomes: list[report.Outcome] = []

    def inflict(self, name: str, fault: Fault) -> None:
        """One fault, its recovery, and the verdict on all runs that went on meanwhile."""
        before, started = set(self.load.states) - set(self.load.under_way()), time.monotonic()
        remark, outcome = "", report.HELD
        try:
            if not fault.there():
                self._say(report.Outcome(name, report.ABSENT))
                return
            wait_until(lambda: "running" in self.load.states.values(), PATIENCE, "a run that goes on")
            before, started = set(self.load.states) - set(self.load.under_way()), time.monotonic()
            try:
                remark = fault.inflict() or ""
            finally:
                fault.undo()
            self._settle()
        except FAILED as failure:
            remark, outcome = str(failure), report.LASTED
        seconds = time.monotonic() - started
        states = self.load.end_of(set(self.load.states) - before)
        try:
            rows = ledger.rows(self._written(states))
            findings = [*ledger.findings(states, rows), *self.orphans()]
        except FAILED as failure:
            self._say(report.Outcome(name, report.LASTED, seconds, len(states), 0, f"no verdict: {failure}"))
            return
        if findings and outcome == report.HELD:
            outcome = report.BROKE
        again = ledger.tried(rows, states)
        self._say(report.Outcome(name, outcome, seconds, len(states), again, remark, findings))

    def end(self) -> None:
        """What is left over a minute after the last run has ended is told of, too."""
        self.load.stop()
        time.sleep(ledger.GRACE.total_seconds())
        if left := self.orphans():
            self._say(report.Outcome("(the end)", report.BROKE, findings=left))

    def orphans(self) -> list[str]:
        """Pods of tasks that have been left over for a minute, a sentence each."""
        reconnect(self.services)
        pods = [pod for phase in ("Pending", "Running") for pod in self._pods(phase)]
        instances = {}
        for dag, run in {pod.instance[:2] for pod in pods}:
            for task in self.services.airflow.tasks(dag, run):
                ended = datetime.fromisoformat(task["end_date"]) if task["end_date"] else None
                known = (dag, run, task["task_id"], task["map_index"])
                instances[known] = ledger.Instance(task["state"], ended)
        return [f"pod {name} was left over" for name in ledger.orphans(pods, instances, datetime.now(UTC))]

    def trigger(self, dag_id: str) -> str:
        reconnect(self.services)
        return self.services.airflow.trigger(dag_id)

    def state(self, dag_id: str, run_id: str) -> str:
        try:
            state: str = self.services.airflow.run(dag_id, run_id)["state"]
        except AWAY:
            reconnect(self.services)
            return "not known"
        return state

    def _settle(self) -> None:
        """Waits until each pod is there and Airflow says that it is well."""
        last = ["nothing"]

        def settled() -> bool:
            listing = ("get", "deployments,statefulsets", "-l", f"app.kubernetes.io/instance={RELEASE}", "-o", "json")
            try:
                last[:] = unsettled(json.loads(kubectl(*listing))["items"])
                if not last:
                    last[:] = unhealthy(self.services.airflow.call("GET", "/monitor/health"))
            except (*AWAY, json.JSONDecodeError) as failure:
                last[:] = [str(failure)]
                self.services.close()
                reconnect(self.services)
            return not last

        try:
            wait_until(settled, SETTLED_SECONDS, "the platform as it was", 2)
        except TimeoutError as late:
            raise TimeoutError(f"{late}: {'; '.join(last)}") from late

    def _written(self, runs: Collection[str]) -> list[ledger.Written]:
        """All versions of what these runs wrote: two of an object written twice, where the bucket keeps them."""
        reconnect(self.services)
        found = []
        pages = self.services.s3.get_paginator("list_object_versions")
        for run in runs:
            for page in pages.paginate(Bucket="data", Prefix=f"{ledger.PREFIX}{run}/"):
                for version in page.get("Versions", ()):
                    named = {"Key": version["Key"], "VersionId": version["VersionId"]}
                    content = self.services.s3.get_object(Bucket="data", **named)["Body"].read()
                    found.append(ledger.Written(version["Key"], content))
        return found

    def _pods(self, phase: str) -> list[ledger.TaskPod]:
        labels = f"app.kubernetes.io/instance={RELEASE},app.kubernetes.io/component=task"
        selected = {"label_selector": labels, "field_selector": f"status.phase={phase}"}
        pods = kubernetes().list_namespaced_pod(NAMESPACE, **selected).items
        return [_task_pod(pod) for pod in pods if "maestro/run-id" in (pod.metadata.annotations or {})]

    def _say(self, outcome: report.Outcome) -> None:
        self.outcomes.append(outcome)
        print(report.table([outcome]).partition("\n")[2], flush=True)


def _task_pod(pod: object) -> ledger.TaskPod:
    metadata = pod.metadata  # type: ignore[attr-defined]
    noted = metadata.annotations
    names = tuple(noted[f"maestro/{part}"] for part in ("dag-id", "run-id", "task-id"))
    instance = (*names, int(noted["maestro/map-index"]))
    return ledger.TaskPod(metadata.name, instance)


def parsed(services: Services, dag_id: str) -> bool:
    """Whether Airflow has read the DAG, which then has its runs begun."""
    try:
        found = services.airflow.call("GET", f"/dags/{dag_id}")
    except AWAY:
        reconnect(services)
        return False
    return not found["is_stale"] and not found["is_paused"]


def run(names: list[str], seed: int, files: tuple[str, ...]) -> list[report.Outcome]:
    """Inflicts the faults on the release that has the DAGs."""
    services = Services()
    services.connect()
    load = Load(f"chaos-{secrets.token_hex(3)}", WIDTH)
    chaos = Chaos(services, load)
    known = faults(Release(files, chaos.trigger, chaos.state))
    try:
        for dag_id in (ledger.DAG, "chaos_burst"):
            wait_until(lambda dag_id=dag_id: parsed(services, dag_id), PARSED_SECONDS, f"the DAG {dag_id}", 2)
        load.start()
        for name in names:
            chaos.inflict(name, known[name])
        chaos.end()
        return chaos.outcomes
    finally:
        load.stop()
        REPORT.parent.mkdir(exist_ok=True)
        REPORT.write_text(json.dumps(report.document(seed, chaos.outcomes), indent=2) + "\n")
        services.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, help="of the order (default: one drawn and printed)")
    parser.add_argument("--short", action="store_true", help=f"{SHORT} faults that are over within minutes")
    parser.add_argument("--fault", action="append", default=[], help="this one only; may be given again")
    parser.add_argument("--placed", action="store_true", help="the release has the DAGs of tests/chaos/dags already")
    asked = parser.parse_args()
    seed = asked.seed if asked.seed is not None else secrets.randbelow(10**6)
    known = faults(Release((), str, lambda dag_id, run_id: ""))
    try:
        names = chosen(asked.fault, known) or _drawn(known, seed, asked.short)
    except ValueError as error:
        parser.error(str(error))
    print(f"seed {seed}: {', '.join(names)}\nagain: python -m tests.chaos --seed {seed}", flush=True)
    values = (*VALUES, IMAGES)
    if asked.placed:
        outcomes = run(names, seed, values)
    else:
        with placed(values) as files:
            outcomes = run(names, seed, files)
    print(f"\nseed {seed}\n{report.table(outcomes)}", flush=True)
    return 0 if report.held(outcomes) else 1


def _drawn(known: dict[str, Fault], seed: int, short: bool) -> list[str]:
    """All, or SHORT of those that are short and that there is something to inflict on."""
    if not short:
        return drawn(known, seed)
    return drawn([name for name, fault in known.items() if fault.short and fault.there()], seed, SHORT)


if __name__ == "__main__":
    sys.exit(main())
