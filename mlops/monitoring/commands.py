"""Watch the newest part of a dataset: its schema, its quality, its drift, its anomalies."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from mlops import datasets
from mlops.config import RunIdentity, Settings
from mlops.datasets.declaration import EVENT_TIME, Dataset
from mlops.monitoring import findings as kept
from mlops.monitoring import reference as references
from mlops.monitoring.findings import ALL_COLUMNS, STEPS, Alert, Findings
from mlops.result import Failure, Refused, Result
from mlops.stores.metrics import Metrics
from mlops.stores.object_store import data_bucket, reports_bucket
from mlops.stores.raw import Raw, RawData

if TYPE_CHECKING:
    import pandas as pd

_EXAMPLES = 5  # strange rows that the report shows
_LEAST_ROWS = 30  # of a batch; the share of strange rows among fewer says little

log = logging.getLogger(__name__)


def schema(*, dataset: str, window_hours: float, latest_fraction: float) -> Result:
    """Checks that the newest rows have the declared columns, each of its declared type; fails where they do not."""
    from mlops.monitoring.schema import violations

    batch = _read(dataset, window_hours, latest_fraction)
    alerts = violations(batch.table, batch.declared)
    wrong = {alert.column for alert in alerts}
    types = {name: str(dtype) for name, dtype in batch.table.dtypes.items()}
    columns = [
        {"column": c.name, "declared": c.kind, "dtype": types.get(c.name, "missing"), "ok": c.name not in wrong}
        for c in batch.declared.columns
    ]
    result = _leave(batch, "schema", alerts, {"columns": columns})
    _refuse(batch, alerts, f"{len(alerts)} things are not as declared")
    return {**result, "columns": len(columns)}


def quality(*, dataset: str, window_hours: float, latest_fraction: float, max_age: float) -> Result:
    """Checks the newest rows for missing, repeated and impossible values, and for their age; fails where one fails."""
    from mlops.monitoring.quality import check, missing_shares

    batch = _read(dataset, window_hours, latest_fraction)
    checks = check(batch.table, batch.declared, max_age=max_age, now=datetime.now(UTC))
    alerts = [one.alert for one in checks if not one.passed]
    details = {"checks": [asdict(one) for one in checks], "missing": missing_shares(batch.table, batch.declared)}
    result = _leave(batch, "quality", alerts, details)
    _refuse(batch, alerts, f"{len(alerts)} of {len(checks)} checks failed")
    return {**result, "checks": len(checks)}


def drift(
    *, dataset: str, window_hours: float, latest_fraction: float, level: float, effect_threshold: float
) -> Result:
    """Compares the newest rows with the reference, column by column; what drifted is told of and fails nothing."""
    from mlops.monitoring.batch import comparable, scales
    from mlops.monitoring.drift import compare

    batch = _read(dataset, window_hours, latest_fraction)
    reference, about = _reference(batch)
    compared = compare(
        comparable(reference, batch.declared),
        comparable(batch.table, batch.declared),
        scales(batch.declared),
        level=level,
        effect_threshold=effect_threshold,
    )
    alerts = [
        Alert("drift", one.column, one.effect, effect_threshold, f"drifted by a {one.effect_name} of {one.effect:.3f}")
        for one in compared
        if one.drifted
    ]
    details = {
        "level": level,
        "effect_threshold": effect_threshold,
        "reference": about,
        "columns": [one.as_json() for one in compared],
    }
    metrics = Metrics(batch.settings)
    for one in compared:
        metrics.gauge("drift_effect", one.effect, dataset=dataset, column=one.column)
    result = _leave(batch, "drift", alerts, details)
    return {**result, "drifted": [alert.column for alert in alerts], "tested": len(compared)}


def anomalies(*, dataset: str, window_hours: float, latest_fraction: float, rate_threshold: float) -> Result:
    """Scores the newest rows with an Isolation Forest of the reference; too many strange ones are told of."""
    from mlops.monitoring.anomalies import contamination, detect
    from mlops.monitoring.batch import comparable

    batch = _read(dataset, window_hours, latest_fraction)
    declared = batch.declared
    reference, about = _reference(batch)
    share = contamination(declared.label.of(reference), rate_threshold)
    found = detect(comparable(reference, declared), comparable(batch.table, declared), declared, share)
    labels = declared.label.of(batch.table).dropna()
    details = {
        "rate": found.rate,
        "threshold": rate_threshold,
        "contamination": found.contamination,
        "label_share": float(labels.mean()) if len(labels) else None,
        "reference": about,
        "edges": found.edges,
        "reference_scores": found.reference,
        "batch_scores": found.batch,
        "examples": _examples(batch.table.loc[found.scores.sort_values().index[:_EXAMPLES]]),
    }
    alerts = []
    if found.rate > rate_threshold and len(batch.table) >= _LEAST_ROWS:
        text = f"{found.rate:.2%} of {len(batch.table):,} rows are anomalous"
        alerts.append(Alert("anomalies", ALL_COLUMNS, found.rate, rate_threshold, text))
    Metrics(batch.settings).gauge("anomaly_rate", found.rate, dataset=dataset)
    result = _leave(batch, "anomalies", alerts, details)
    return {**result, "rate": round(found.rate, 6), "contamination": round(found.contamination, 6)}


def reference(*, dataset: str, fraction: float) -> Result:
    """Stores the earliest part of a dataset as what new rows are compared with from now on."""
    declared, settings = datasets.get(dataset), Settings.from_environment()
    raw, store = RawData(settings).read(declared), data_bucket(settings)
    table = references.make(raw, declared, fraction)
    references.write(store, table, declared)
    return {"reference": references.key(declared), **references.about(table)}


def report(*, dataset: str) -> Result:
    """Writes one page and one JSON of what the steps of this run found, tells people once, and fails a bad run."""
    from mlops.monitoring import ledger, summary
    from mlops.monitoring.report import as_html, as_json

    identity, settings = RunIdentity.from_environment(), Settings.from_environment()
    store, folder = reports_bucket(settings), kept.folder(identity)
    left = {step: store.find_bytes(f"{folder}/{step}.json") for step in STEPS}
    found = summary.current({step: Findings.decode(content) if content else None for step, content in left.items()})
    now = datetime.now(UTC)
    facts = {"dataset": dataset, "run": identity.run_id, "written_at": now.isoformat(timespec="seconds")}
    page = json.dumps(as_json(found, facts), ensure_ascii=False, allow_nan=False, indent=1)
    keys = {"report": f"{identity.run_key}/report.html", "report_json": f"{identity.run_key}/report.json"}
    store.write_bytes(keys["report_json"], page.encode())
    store.write_bytes(keys["report"], as_html(found, facts).encode())
    address = f"s3://{settings.reports_bucket}/{keys['report']}"
    log.info("the report: %s", address)

    alerts, causes = summary.alerts(found), summary.causes(found)
    window = next((findings.window for findings in found.values() if findings), f"unread-{identity.run_id}")
    told = ledger.tell_once(
        store,
        alerts,
        lambda new: _tell(settings, new, dataset, address),
        dataset=dataset,
        window=window,
        run=f"{identity.dag_id}/{identity.run_id}",
        now=now,
    )
    log.info("%d alerts, %d of them are new", len(alerts), len(told))
    if causes:
        listed = "".join(f"\n- {cause}" for cause in causes)
        raise Refused(
            f"dataset {dataset}: the newest rows are not good{listed}\nReport: {address}. Correct the data, or the "
            f"declaration in mlops/datasets/{dataset}.py, and clear this run"
        )
    return {**keys, "alerts": len(alerts), "told": len(told), "steps": summary.states(found)}


class _Batch(NamedTuple):
    """The rows that a step judges, and all that it needs beside them."""

    declared: Dataset
    settings: Settings
    raw: Raw
    table: pd.DataFrame

    @property
    def shift(self) -> Mapping[str, int]:
        return {"event_time_shift_seconds": self.raw.shift_seconds} if self.raw.shift_seconds else {}


def _read(dataset: str, window_hours: float, latest_fraction: float) -> _Batch:
    from mlops.monitoring.batch import latest

    declared, settings = datasets.get(dataset), Settings.from_environment()
    raw = RawData(settings).read(declared)
    table = latest(raw.table, window_hours, latest_fraction)
    log.info("%s: the newest %d of %d rows are judged", dataset, len(table), len(raw.table))
    if table.empty:
        raise Refused(f"dataset {dataset} has no rows: load a whole file with 'make data'")
    return _Batch(declared, settings, raw, table)


def _reference(batch: _Batch) -> tuple[pd.DataFrame, dict[str, Any]]:
    store = data_bucket(batch.settings)
    table, made_now = references.stored(store, batch.declared, batch.raw)
    return table, {**references.about(table), "made_now": made_now}


def _leave(batch: _Batch, step: str, alerts: Sequence[Alert], details: Mapping[str, Any]) -> dict[str, Any]:
    """Writes a step's findings where the report looks for them; gives what all steps hand back."""
    from mlops.monitoring.batch import span, window_name

    raw = batch.raw
    left = Findings(
        step=step,
        dataset=batch.declared.name,
        window=window_name(batch.table, raw.data_version, raw.shift_seconds),
        data_version=raw.data_version,
        event_time_shift_seconds=raw.shift_seconds,
        batch=span(batch.table),
        alerts=tuple(alerts),
        details=details,
    )
    key = f"{kept.folder(RunIdentity.from_environment())}/{step}.json"
    reports_bucket(batch.settings).write_bytes(key, left.encode())
    for alert in alerts:
        log.warning("%s, column %s: %s", alert.kind, alert.column, alert.text)
    return {"findings": key, "rows": len(batch.table), "alerts": len(alerts), **batch.shift}


def _refuse(batch: _Batch, alerts: Sequence[Alert], what: str) -> None:
    if alerts:
        listed = "".join(f"\n- {alert.text}" for alert in alerts)
        raise Refused(
            f"dataset {batch.declared.name}, the newest {len(batch.table):,} rows: {what}{listed}\nCorrect the data, "
            f"or the declaration in mlops/datasets/{batch.declared.name}.py, and clear this run"
        )


def _tell(settings: Settings, alerts: Sequence[Alert], dataset: str, report: str) -> None:
    from mlops.notify.message import tell

    try:
        tell(settings, "\n".join(alert.line(dataset, report) for alert in alerts))
    except Failure as failure:
        raise Failure(f"{failure}. Nobody was told of {len(alerts)} alerts; the report is there: {report}") from failure
    metrics = Metrics(settings)
    for alert in alerts:
        metrics.count("alerts", dataset=dataset, column=alert.column, kind=alert.kind)


def _examples(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON. Whatever a value is, it is shown as text."""
    named = [EVENT_TIME, *(name for name in rows.columns if name != EVENT_TIME)] if EVENT_TIME in rows else rows.columns
    return [{str(name): str(row[name]) for name in named} for _, row in rows.iterrows()]


def _batch_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", required=True)
    parser.add_argument(
        "--window-hours", type=float, default=24.0, help="of event time before the newest event (%(default)s)"
    )
    parser.add_argument(
        "--latest-fraction", type=float, default=0.2, help="of the rows, where these have no times (%(default)s)"
    )


def _quality_options(parser: argparse.ArgumentParser) -> None:
    _batch_options(parser)
    parser.add_argument(
        "--max-age", type=float, default=0.0, metavar="HOURS", help="of the newest event; 0: not checked (%(default)s)"
    )


def _drift_options(parser: argparse.ArgumentParser) -> None:
    _batch_options(parser)
    parser.add_argument("--level", type=float, default=0.01, help="of a false alarm in any column (%(default)s)")
    parser.add_argument(
        "--effect-threshold", type=float, required=True, help="least KS distance or population stability index"
    )


def _anomalies_options(parser: argparse.ArgumentParser) -> None:
    _batch_options(parser)
    parser.add_argument("--rate-threshold", type=float, required=True, help="share of anomalous rows to tell of")


def _reference_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", required=True)
    parser.add_argument(
        "--fraction", type=float, default=references.FRACTION, help="of the rows, the earliest (%(default)s)"
    )


def _report_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", required=True)


COMMANDS = {
    "schema": (schema, _batch_options),
    "quality": (quality, _quality_options),
    "drift": (drift, _drift_options),
    "anomalies": (anomalies, _anomalies_options),
    "reference": (reference, _reference_options),
    "report": (report, _report_options),
}
