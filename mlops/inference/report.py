"""What became of a batch, for programs and for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from mlops.models.metrics import get, shown
from mlops.page import page, table
from mlops.plots import bars, histogram


def as_html(report: Mapping[str, Any]) -> str:
    """report: as `commands.report` collects it."""
    parts = [_head(report), _quarantine(report["quarantine"]), _metrics(report["judged"]), _scores(report)]
    return page(f"Batch {report['batch']}", "".join([*parts, _partitions(report["partitions"])]))


def _head(report: Mapping[str, Any]) -> str:
    state = (
        '<p class="passed">Each row is accounted for.</p>'
        if not report["quarantined"]
        else f'<p class="alert">{report["quarantined"]:,} rows were put aside.</p>'
    )
    rows = [
        ("model", f"{report['model']} version {report['version']} (alias {report['alias']} when the batch began)"),
        ("delivered", f"{report['folder']}/, {len(report['files'])} files: {', '.join(report['files'][:10])}"),
        ("rows", f"{report['rows']:,} = {report['scored']:,} scored + {report['quarantined']:,} put aside"),
        ("scores", report["scores"]),
        ("throughput", f"{report['rows_per_second']:,.0f} rows a second and pod" if report["partitions"] else "none"),
        *((name.replace("_", " "), report[name]) for name in ("dag_id", "run_id")),
    ]
    return state + table(("", ""), rows)


def _quarantine(reasons: Sequence[Mapping[str, Any]]) -> str:
    if not reasons:
        return ""
    labels, counts = [str(each["reason"]) for each in reasons], [float(each["rows"]) for each in reasons]
    listed = table(("reason", "rows"), [(each["reason"], f"{each['rows']:,}") for each in reasons])
    return "<h2>Put aside, by reason</h2>" + bars(labels, counts, "rows by reason", "{:,.0f} rows") + listed


def _metrics(judged: Mapping[str, Any] | None) -> str:
    if judged is None:
        return '<h2>Metrics</h2><p class="note">The batch has no labels that could tell how good the scores are.</p>'
    rows = []
    for name, found in judged["metrics"].items():
        between = "" if found["lower"] is None else f"{shown(found['lower'])} to {shown(found['upper'])}"
        values = ["" if value is None else shown(value) for value in (found["value"], judged["baseline"][name])]
        rows.append((get(name).title, values[0], between, values[1]))
    share = f"{100 * judged['confidence']:g} %"
    note = f'<p class="note">Of {judged["rows"]:,} labelled rows; intervals hold with {share} confidence.</p>'
    return "<h2>Metrics</h2>" + note + table(("metric", "value", "between", "without a model"), rows)


def _scores(report: Mapping[str, Any]) -> str:
    drift = report["drift"]
    if drift is not None:
        said = "are distributed otherwise than" if drift["drifted"] else "are distributed as"
        note = (
            f"The scores {said} those of the test set: {drift['effect']:.1%} lie elsewhere (p {drift['p']:.2g}). "
            "What lies elsewhere is told of from "
            f"{report['effect_threshold']:.0%} on."
        )
        key = '<p><span class="key r">■</span> test set <span class="key b">■</span> batch</p>'
        plot = histogram(drift["labels"], drift["reference"], drift["batch"], "scores")
        state = "alert" if drift["drifted"] else "passed"
        return f'<h2>Scores</h2><p class="{state}">{escape(note)}</p>{key}{plot}'
    if not report["histogram"]:
        return ""
    note = '<p class="note">The version was trained before scores of the test set were kept to compare with.</p>'
    labels, shares = report["histogram"]
    return "<h2>Scores</h2>" + note + bars(labels, shares, "scores", "{:.2%} of the rows")


def _partitions(partitions: Sequence[Mapping[str, Any]]) -> str:
    if not partitions:
        return ""
    labels = [str(each["file"]) for each in partitions]
    seconds = bars(labels, [float(each["seconds"]) for each in partitions], "seconds by partition", "{:.2f} s")
    rows = [
        (
            each["file"],
            f"{each['rows']:,}",
            f"{each['seconds']:.2f}",
            f"{each['rows'] / max(each['seconds'], 1e-9):,.0f}",
        )
        for each in partitions
    ]
    return "<h2>Seconds by partition</h2>" + seconds + table(("partition", "rows", "seconds", "rows a second"), rows)
