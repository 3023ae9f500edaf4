"""Ask Airflow and Prometheus how runs, tasks and processes fare, report on it, and tell what has changed."""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from mlops.config import AirflowSettings, CodeSettings, PrometheusSettings, RunIdentity
from mlops.health import components as processes
from mlops.health import failures as failing
from mlops.health import reading
from mlops.health import runs as dag_runs
from mlops.health.failures import Failed
from mlops.health.findings import CHECKS, Findings, Incident, folder, incident
from mlops.health.reading import Look
from mlops.health.runs import Run
from mlops.result import Result, Skip
from mlops.stores.airflow import ALL, Airflow, Entry, Page
from mlops.stores.object_store import reports_bucket
from mlops.stores.prometheus import Prometheus

if TYPE_CHECKING:
    from mlops.notify.channels import Delivery
    from mlops.notify.problems import Change

_MOST = 2_000  # runs, or failed tasks, of a window that are looked at
_LONGEST = 744.0  # hours of a window, as the trigger form has it
_EXPLAINED = 60  # failed task instances, the newest, whose error is asked for: it takes two or three requests each
_LOGIN = 0.25  # share of the time that a login may take
_TOLD = "health-incidents"  # folder of the reports bucket: what people were told of
_UNFINISHED = ["queued", "running"]

log = logging.getLogger(__name__)


def runs(*, window_hours: float, patience: float, timeout: float) -> Result:
    """Looks at DAG runs: success rates, DAGs that fail, late runs, and durations against each DAG's own history."""
    look, airflow, now = Look(time.monotonic() + patience), _airflow(patience, timeout), datetime.now(UTC)
    dags = _declared(look, airflow)
    recent: dict[str, dict[str, Run]] = defaultdict(dict)
    for what, query in (
        ("the runs of the window", {"run_after_gte": _iso(now - timedelta(hours=window_hours))}),
        ("the runs that have not ended", {"state": _UNFINISHED}),
    ):
        for entry in look.all(what, reading.pages(airflow.runs, ALL, query={**query, "order_by": "-run_after"}), _MOST):
            recent[entry["dag_id"]][entry["dag_run_id"]] = Run.of(entry)
    records = [reading.record(look, airflow, dag, list(recent[dag["dag_id"]].values()), now) for dag in dags]
    found = dag_runs.incidents(records, now)
    found = [
        reading.with_slowest_task(look, airflow, each, records, now) if each.kind == "slow" else each for each in found
    ]
    details = {"window_hours": window_hours, "dags": dag_runs.details(records, now)}
    return _leave("runs", look, found, details, now)


def failures(*, window_hours: float, patience: float, timeout: float) -> Result:
    """Looks at tasks that failed, and at what their failures have in common: task, error, node, the task before.

    Those of a DAG that no file declares any more are nobody's.
    """
    look, airflow, now = Look(time.monotonic() + patience), _airflow(patience, timeout), datetime.now(UTC)
    declared = {dag["dag_id"] for dag in _declared(look, airflow)}
    query = {"end_date_gte": _iso(now - timedelta(hours=window_hours)), "order_by": "-end_date"}
    listed = look.all(
        "failed tasks", reading.pages(airflow.task_instances, ALL, ALL, query={**query, "state": "failed"}), _MOST
    )
    listed = [entry for entry in listed if not declared or entry["dag_id"] in declared]
    held_back = look.all(
        "tasks that were held back",
        reading.pages(airflow.task_instances, ALL, ALL, query={**query, "state": "upstream_failed"}),
        _MOST,
    )
    if len(listed) > _EXPLAINED:
        look.unseen.append(
            f"the errors of all but the newest {_EXPLAINED} of {len(listed)} failures: they are too many"
        )
    failed = [
        reading.failed(look, airflow, entry) if number < _EXPLAINED else Failed.of(entry, None, None)
        for number, entry in enumerate(listed)
    ]
    tasks = sorted({(each.dag_id, each.task_id) for each in failed})
    past = {task: reading.past(look, airflow, *task) for task in tasks}
    upstream = {
        dag: look.at(f"the tasks of {dag}", lambda dag=dag: airflow.upstream(dag)) or {}  # type: ignore[misc]
        for dag in sorted({dag for dag, _ in tasks})
    }
    behind: dict[tuple[str, str], int] = defaultdict(int)
    for entry in held_back:
        behind[entry["dag_id"], entry["dag_run_id"]] += 1
    patterns = failing.patterns(failed, past, upstream, behind)
    details = {"patterns": failing.details(patterns), "common": failing.common(patterns)}
    return _leave("failures", look, failing.incidents(patterns), details, now)


def components(*, window_hours: float, patience: float, timeout: float) -> Result:
    """Looks at scheduler, triggerer and dag-processor, pools and DAG files, and at what Prometheus knows of them."""
    look, airflow, now = Look(time.monotonic() + patience), _airflow(patience, timeout), datetime.now(UTC)
    found: list[Incident] = []
    health = look.at("the heartbeats", airflow.health)
    if health is not None:
        found += processes.silent(health, now)
    pools = look.at("the pools", airflow.pools) or Page([], 0)
    for pool in filter(processes.is_full, pools.entries):
        found += reading.starved(look, airflow, pool, now)
    errors = look.at("the DAG files", airflow.import_errors) or Page([], 0)
    found += processes.unread(errors.entries)
    details = {
        "heartbeats": processes.heartbeats(health or {}),
        "pools": [
            {
                "name": pool["name"],
                "slots": pool["slots"],
                "occupied": pool["occupied_slots"],
                "waiting": pool["scheduled_slots"] + pool["queued_slots"],
            }
            for pool in pools.entries
        ],
    }
    judged_by_airflow = not look.unseen
    details |= reading.of_prometheus(look, Prometheus(PrometheusSettings.from_environment(), timeout), window_hours)
    return _leave("components", look, found, details, now, complete=judged_by_airflow)


def report(*, states: Mapping[str, str | None]) -> Result:
    """Writes one page and one JSON of what the checks of this run found; a check that left nothing is told of."""
    from mlops.health.report import as_html, as_json
    from mlops.health.summary import Outcome

    identity = RunIdentity.from_environment()
    store, left_in = reports_bucket(), folder(identity)
    left = {check: store.find_bytes(f"{left_in}/{check}.json") for check in CHECKS}
    outcome = Outcome.of(
        {check: Findings.decode(content) for check, content in left.items() if content is not None}, states
    )
    facts = {
        "run": identity.run_id,
        "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "code_version": CodeSettings.from_environment().version,
    }
    keys = {"report": f"{identity.run_key}/report.html", "report_json": f"{identity.run_key}/report.json"}
    text = json.dumps(as_json(outcome, facts), ensure_ascii=False, allow_nan=False, indent=1)
    store.write_bytes(keys["report_json"], text.encode())
    store.write_bytes(keys["report"], as_html(outcome, facts).encode())
    log.info("the report: s3://%s/%s", store.bucket, keys["report"])
    return {**keys, "incidents": len(outcome.incidents), "checks": outcome.states}


def alert(*, report_json: str) -> Result:
    """Tells people of the incidents of a report that are new, and of those that are over; skips where none is."""
    from mlops.notify.problems import Problem, notify_changes

    identity, store = RunIdentity.from_environment(), reports_bucket()
    written = json.loads(store.read_bytes(report_json))
    incidents = [incident(each) for each in written["incidents"]]
    page = f"s3://{store.bucket}/{report_json.removesuffix('.json')}.html"
    told = notify_changes(
        store,
        [Problem(each.kind, each.subject, _told(each)) for each in incidents],
        lambda changes: _notify(changes, page),
        folder=_TOLD,
        judged=written["judged"],
        window=written["written_at"],
        run=f"{identity.dag_id}/{identity.run_id}",
        now=datetime.now(UTC),
    )
    if not told.changes and not told.lost:
        raise Skip(f"nothing has changed since people were told: {len(incidents)} things are wrong")
    return {
        "told": len(told.changes),
        "over": sum(change.what == "over" for change in told.changes),
        "incidents": len(incidents),
        "lost": dict(told.lost),
    }


def _declared(look: Look, airflow: Airflow) -> Sequence[Entry]:
    """The DAGs that files declare."""
    return look.all("the list of DAGs", airflow.dags, _MOST)


def _airflow(patience: float, timeout: float) -> Airflow:
    return Airflow(AirflowSettings.from_environment(), timeout, patience * _LOGIN)


def _iso(at: datetime) -> str:
    return at.isoformat(timespec="seconds")


def _leave(
    check: str,
    look: Look,
    found: Sequence[Incident],
    details: Mapping[str, Any],
    now: datetime,
    *,
    complete: bool | None = None,
) -> Result:
    """Keeps the findings for the report. complete: whether all was seen that incidents may be of."""
    seen = not look.unseen if complete is None else complete
    identity = RunIdentity.from_environment()
    findings = Findings(check, _iso(now), tuple(found), CHECKS[check][1] if seen else (), tuple(look.unseen), details)
    key = f"{folder(identity)}/{check}.json"
    reports_bucket().write_bytes(key, findings.encode())
    for each in found:
        log.warning("%s, %s: %s", each.kind, each.subject, each.text)
    return {"findings": key, "incidents": len(found), "unseen": len(look.unseen)}


def _told(each: Incident) -> str:
    """An incident in one line, for who sees nothing else."""
    parts = [each.text]
    if each.since:
        parts.append(f"since {each.since}")
    if each.version:
        parts.append(each.version)
    if each.links:
        text, place = each.links[0]
        parts.append(f"{text}: /{place}")
    return ". ".join(parts)


def _notify(changes: Sequence[Change], page: str) -> Delivery:
    from mlops.notify.message import Message
    from mlops.notify.telling import tell

    return tell(
        Message("\n".join(change.line(f"{change.problem.subject}, {change.problem.kind}", page) for change in changes))
    )


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--window-hours", type=_hours, default=24.0, metavar="HOURS", help="how far to look back")
    parser.add_argument(
        "--patience", type=_positive, default=120.0, metavar="SECONDS", help="after which nothing more is asked for"
    )
    parser.add_argument("--timeout", type=_positive, default=10.0, metavar="SECONDS", help="of one answer")


def _report_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--states", type=json.loads, default={}, metavar="JSON", help="how the run's tasks ended, by their names"
    )


def _alert_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--report-json", required=True, metavar="KEY", help="the report's JSON in the reports bucket")


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def _hours(text: str) -> float:
    number = _positive(text)
    if number > _LONGEST:
        raise argparse.ArgumentTypeError(
            f"{text} hours are more than {_LONGEST:.0f}, a month: give --window-hours fewer"
        )
    return number


COMMANDS = {
    "runs": (runs, _options),
    "failures": (failures, _options),
    "components": (components, _options),
    "report": (report, _report_options),
    "alert": (alert, _alert_options),
}
