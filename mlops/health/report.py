"""The report of a run: what is wrong first, since when and since which version, and where to look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from html import escape
from typing import Any

from mlops.health.findings import CHECKS, Incident, minute, span
from mlops.health.summary import Outcome
from mlops.page import Link, page, table
from mlops.plots import bars

# From where Airflow shows the page, /reports/<dag>/<run>/<task>/<map index>/report.html, to Airflow's own address.
_AIRFLOW = "../" * 5
_STATES = {
    "complete": '<span class="passed">looked at everything</span>',
    "partial": '<span class="alert">could not look at everything</span>',
    "broke": '<span class="broke">left no findings: see its log</span>',
}
_COMMON = {"error": "the same error", "node": "the same node", "upstream": "after the same task"}


def as_json(outcome: Outcome, facts: Mapping[str, Any]) -> dict[str, Any]:
    """facts: of the run. Links are below Airflow's own address."""
    return {
        **facts,
        "healthy": not outcome.incidents,
        "incidents": [asdict(each) for each in outcome.incidents],
        "judged": sorted(outcome.judged),
        "checks": outcome.states,
        "unseen": {check: list(found.unseen) for check, found in outcome.found.items() if found},
        "findings": {check: dict(found.details) if found else None for check, found in outcome.found.items()},
    }


def as_html(outcome: Outcome, facts: Mapping[str, Any]) -> str:
    sections = {"runs": _runs, "failures": _failures, "components": _components}
    body = [_incidents(outcome.incidents), table(("", ""), [(k.replace("_", " "), v) for k, v in facts.items()])]
    for check, (task, _) in CHECKS.items():
        found = outcome.found[check]
        body.append(f"<h2>{escape(task)}: {_STATES[outcome.states[check]]}</h2>")
        if found is not None:
            body.append("".join(f'<p class="alert">Not seen: {escape(text)}</p>' for text in found.unseen))
            body.append(sections[check](found.details))
    return page("Health of Airflow and its DAGs", "".join(body))


def _incidents(incidents: Sequence[Incident]) -> str:
    if not incidents:
        return '<p class="passed">Nothing is wrong.</p>'
    drawn = []
    for each in incidents:
        since = f" since {_time(each.since)}" if each.since else ""
        version = f", since {escape(each.version)}" if each.version else ""
        links = " · ".join(Link(text, _AIRFLOW + place).html for text, place in each.links)
        drawn.append(
            f'<h3><span class="failed">{escape(each.kind)}</span>: {escape(each.subject)}{escape(since)}{version}</h3>'
            f"<p>{escape(each.text)}</p><p>{links}</p>"
        )
    return f"<h2>What is wrong ({len(incidents)})</h2>" + "".join(drawn)


def _runs(details: Mapping[str, Any]) -> str:
    rows = [
        (
            *(Link(row["dag"], f"{_AIRFLOW}dags/{row['dag']}"), _share(row["success_rate"])),
            *(row["success"], row["failed"], row["running"], row["queued"]),
            _time(row["last_success"]),
            _newest(row["newest"]),
            _usual(row["median_seconds"], row["slow_from_seconds"]),
        )
        for row in details["dags"]
    ]
    header = ("DAG", "success", "succeeded", "failed", "running", "queued", "last success", "newest", "usual")
    rated = [row for row in details["dags"] if row["success_rate"] is not None]
    plot = bars([row["dag"] for row in rated], [row["success_rate"] for row in rated], "success rates", "{:.0%}")
    note = f'<p class="note">Runs that were due in the last {details["window_hours"]:g} hours.</p>'
    return note + table(header, rows) + ("<h3>Success rates</h3>" + plot if rated else "")


def _newest(run: Mapping[str, Any] | None) -> object:
    return "" if run is None else Link(f"{run['state']}, {_span(run['seconds'])}", _AIRFLOW + run["link"])


def _failures(details: Mapping[str, Any]) -> str:
    if not details["patterns"]:
        return '<p class="passed">No task failed.</p>'
    rows = [
        (
            *(f"{row['dag']}.{row['task']}", row["failures"], "goes on" if row["goes_on"] else "over"),
            *(_time(row["since"]), _time(row["last"])),
            ", ".join(f"{node} ({count})" for node, count in row["nodes"].items()),
            *(", ".join(row["after"]), row["held_back"] or ""),
            Link((row["error"] or "not known: the log")[:300], _AIRFLOW + row["link"]),
        )
        for row in details["patterns"]
    ]
    header = ("task", "failures", "", "since", "last", "nodes", "after", "held back", "error")
    shared = [
        (_COMMON[row["what"]], row["which"], ", ".join(row["tasks"]), row["failures"]) for row in details["common"]
    ]
    also = "<h3>What they have in common</h3>" + table(("", "", "tasks", "failures"), shared) if shared else ""
    return table(header, rows) + also


def _components(details: Mapping[str, Any]) -> str:
    silences, waits = details["longest_silence"], details["longest_wait"]
    body = table(
        ("component", "newest heartbeat", "longest silence"),
        [(name, _time(beat), _span(silences.get(name))) for name, beat in details["heartbeats"].items()],
    )
    pools = [
        (
            *(each["name"], each["slots"] if each["slots"] >= 0 else "unlimited", each["occupied"], each["waiting"]),
            _span(waits.get(each["name"])),
        )
        for each in details["pools"]
    ]
    body += "<h3>Pools</h3>" + table(("pool", "slots", "taken", "waiting", "longest wait"), pools)
    if details["prometheus"]:
        alerts = [(a["alert"], a["severity"], a["of"], a["since"] or "") for a in details["alerts"]]
        empty = '<p class="passed">None.</p>'
        body += "<h3>Alerts of Prometheus</h3>"
        body += table(("alert", "severity", "of", "since"), alerts) if alerts else empty
    return body


def _time(text: str | None) -> str:
    return minute(datetime.fromisoformat(text)) if text else ""


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def _usual(median: float | None, slow_from: float | None) -> str:
    return _span(median) if slow_from is None else f"{_span(median)}, slow from {_span(slow_from)}"


def _span(seconds: float | None) -> str:
    return "not known" if seconds is None else span(seconds)
