"""The report of a run as one HTML page that needs nothing beside it: no script, no style sheet, no picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any

from mlops.data_quality.findings import STEPS, Alert, Findings
from mlops.data_quality.summary import Outcome
from mlops.page import page, table
from mlops.plots import histogram

_WORDS = {
    "passed": "passed",
    "failed": "failed",
    "alert": "raised an alert",
    "not run": "was not run, since a check before it failed",
    "broke": "left no findings: see the task's log",
}


def as_json(outcome: Outcome, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The report for programs: `facts` of the run, how each step ended, the alerts, and all findings."""
    return {
        **facts,
        **_batch(outcome.found),
        "passed": not outcome.causes,
        "causes": outcome.causes,
        "steps": outcome.states,
        "alerts": [
            {"kind": a.kind, "column": a.column, "value": a.value, "threshold": a.threshold, "text": a.text}
            for a in outcome.alerts
        ],
        "findings": {step: dict(findings.details) if findings else None for step, findings in outcome.found.items()},
    }


def as_html(outcome: Outcome, facts: Mapping[str, Any]) -> str:
    """The report for people."""
    sections: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "window": _window,
        "schema": _schema,
        "quality": _quality,
        "drift": _drift,
        "anomalies": _anomalies,
    }
    states = outcome.states
    body = [_head(outcome.found, facts), _alerts(outcome.alerts)]
    for step, task in STEPS.items():
        findings, state = outcome.found[step], states[step]
        body.append(f'<h2>{escape(task)}: <span class="{state.split()[0]}">{_WORDS[state]}</span></h2>')
        body.append(sections[step](findings.details) if findings else "")
    return page(f"Data validation of {facts['dataset']}", "".join(body))


def _batch(found: Mapping[str, Findings | None]) -> dict[str, Any]:
    first = next((findings for findings in found.values() if findings), None)
    if first is None:
        return {"batch": None, "window": None, "data_version": None}
    shift = {"event_time_shift_seconds": first.event_time_shift_seconds} if first.event_time_shift_seconds else {}
    return {"batch": dict(first.batch), "window": first.window, "data_version": first.data_version, **shift}


def _head(found: Mapping[str, Findings | None], facts: Mapping[str, Any]) -> str:
    it = _batch(found)
    rows = [(name.replace("_", " "), value) for name, value in facts.items()]
    if batch := it["batch"]:
        times = f", events from {batch['start']} to {batch['end']}" if batch["start"] else ", which have no event times"
        rows += [("rows judged", f"{batch['rows']:,}{times}"), ("data version", it["data_version"])]
    if shift := it.get("event_time_shift_seconds"):
        rows.append(("event times", f"shifted by {shift:,} seconds: the set is older than it looks"))
    return table(("", ""), rows)


def _alerts(alerts: Sequence[Alert]) -> str:
    if not alerts:
        return '<p class="passed">Nothing to tell.</p>'
    rows = [(a.kind, a.column, a.text, f"{a.value:.4g}", f"{a.threshold:.4g}") for a in alerts]
    return "<h2>Alerts</h2>" + table(("kind", "column", "what", "value", "threshold"), rows)


def _window(details: Mapping[str, Any]) -> str:
    rows = [("rows of the set", f"{details['of']:,}")]
    if details["end"]:
        rows.append(("window", f"{details['hours']:g} hours to {details['end']}"))
    if details["future"]:
        kept = f"up to {details['latest']}, left out; the first of them: {details['quarantine']}"
        rows.append(("events of the future", f"{details['future']:,}, {kept}"))
    return table(("", ""), rows)


def _schema(details: Mapping[str, Any]) -> str:
    return table(
        ("column", "declared", "read as", ""),
        [(c["column"], c["declared"], c["dtype"], "" if c["ok"] else "wrong") for c in details["columns"]],
    )


def _quality(details: Mapping[str, Any]) -> str:
    checks = [
        (c["name"], c["column"], f"{c['value']:.4g}", f"{c['threshold']:.4g}", "" if c["passed"] else "failed")
        for c in sorted(details["checks"], key=lambda check: bool(check["passed"]))
    ]
    missing = [(column, f"{share:.2%}") for column, share in details["missing"].items() if share]
    listed = "<h3>Missing values</h3>" + table(("column", "share"), missing) if missing else ""
    age = f'<p class="note">{escape(details["freshness"])}</p>' if details["freshness"] else ""
    return table(("check", "column", "value", "allowed", ""), checks) + age + listed


def _drift(details: Mapping[str, Any]) -> str:
    rows = [
        (
            *(c["column"], f"{c['effect']:.1%}", "yes" if c["drifted"] else ""),
            *(
                _change(c["missing_reference"], c["missing_batch"]),
                c["test"],
                f"{c['p']:.2g}",
                f"{c['p_adjusted']:.2g}",
            ),
        )
        for c in details["columns"]
    ]
    plots = [
        f"<h3>{escape(c['column'])}</h3>" + histogram(c["labels"], c["reference"], c["batch"], c["column"])
        for c in details["columns"]
    ]
    return (
        f'<p class="note">{_reference(details["reference"])} Drift is what is significant at level '
        f"{details['level']:g} for all columns together (Holm) and where at least {details['effect_threshold']:.1%} of "
        "the rows lie elsewhere: on the other side of some value for numbers (Kolmogorov-Smirnov distance), in another "
        "one for categories (total variation distance). A missing value is one of them. Distances of numbers are exact "
        f"to {details['reference']['resolution']:.2%}.</p>"
        + table(("column", "elsewhere", "drifted", "missing", "test", "p", "p, corrected"), rows)
        + _KEY
        + "".join(plots)
    )


def _anomalies(details: Mapping[str, Any]) -> str:
    edges = details["edges"]
    labels = [f"{low:.3f} to {high:.3f}" for low, high in pairwise(edges)]
    label_share = "" if details["label_share"] is None else f" Labelled positive: {details['label_share']:.2%}."
    examples = details["examples"]
    listed = ""
    if examples:
        names = tuple(examples[0])
        rows = [tuple(str(example[name]) for name in names) for example in examples]
        listed = "<h3>The strangest rows</h3>" + table(names, rows)
    return (
        f"<p>{details['rate']:.2%} of the rows are anomalous, {details['expected']:.2%} of the reference are "
        f"(p {details['p']:.2g}). {details['threshold']:.2%} more than these, significant at level "
        f"{details['level']:g}, raise an alert.{label_share}</p>"
        f'<p class="note">{_reference(details["reference"])} An Isolation Forest fitted on a half of a sample of it '
        f"takes {details['contamination']:.2%} of that half as anomalous; the batch is compared with the other half. "
        f"Its rate varies {details['design_effect']:.1f} times as much as that of rows that do not depend on each "
        "other. Scores below 0 are anomalies.</p>"
        + _KEY
        + histogram(labels, details["reference_scores"], details["batch_scores"], "scores")
        + listed
    )


_KEY = '<p><span class="key r">■</span> reference <span class="key b">■</span> batch</p>'


def _reference(reference: Mapping[str, Any]) -> str:
    times = f", {reference['start']} to {reference['end']}" if reference.get("start") else ""
    shift = reference.get("event_time_shift_seconds")
    shifted = f", shifted by {shift:,} seconds" if shift else ""
    made = " It was made in this run." if reference["made_now"] else ""
    return escape(f"The reference is {reference['name']}: {reference['rows']:,} rows{times}{shifted}.{made}")


def _change(before: float, now: float) -> str:
    return f"{before:.1%} to {now:.1%}" if before or now else ""
