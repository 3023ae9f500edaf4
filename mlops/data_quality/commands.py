"""Check data against its dataset's declaration: a whole table, or its newest rows, and report on those."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from mlops import datasets
from mlops.config import RunIdentity
from mlops.data_quality.batch import Batch, batch_options
from mlops.data_quality.findings import STEPS, Alert, Findings, folder
from mlops.result import Failure, Refused, Result
from mlops.stores.metrics import Statsd
from mlops.stores.object_store import data_bucket, reports_bucket

if TYPE_CHECKING:
    from mlops.data_quality.ledger import Change

log = logging.getLogger(__name__)


def validate(*, dataset: str, data: str) -> Result:
    """Checks a table with Great Expectations; fails, with a summary, where an expectation does.

    The report, Great Expectations' Data Docs, is written either way.
    """
    from mlops.data_quality.validate import check

    declared, identity, reports = datasets.get(dataset), RunIdentity.from_environment(), reports_bucket()
    table = data_bucket().read_table(data)
    with TemporaryDirectory() as folder:
        outcome = check(table, declared, Path(folder))
        _leave_out_tutorials(Path(folder))
        reports.upload_folder(Path(folder), identity.run_key)
    report = f"{identity.run_key}/index.html"
    if not outcome.passed:
        failures = "".join(f"\n- {line}" for line in outcome.failures)
        raise Refused(
            f"dataset {dataset}: {len(outcome.failures)} of {outcome.expectations} expectations failed{failures}\n"
            f"Report: s3://{reports.bucket}/{report}. Correct the data, or the declaration in "
            f"mlops/datasets/{dataset}.py, and clear the task that downloads it"
        )
    log.info("all %d expectations hold", outcome.expectations)
    return {"passed": True, "expectations": outcome.expectations, "failed": [], "report": report}


def schema(*, dataset: str, window_hours: float, latest_fraction: float) -> Result:
    """Checks that the newest rows have the declared columns, each of its declared type; fails where they do not."""
    from mlops.data_quality.schema import violations

    batch = Batch.read(dataset, window_hours, latest_fraction)
    alerts = violations(batch.table, batch.declared)
    wrong = {alert.column for alert in alerts}
    types = {name: str(dtype) for name, dtype in batch.table.dtypes.items()}
    columns = [
        {"column": c.name, "declared": c.kind, "dtype": types.get(c.name, "missing"), "ok": c.name not in wrong}
        for c in batch.declared.columns
    ]
    result = batch.leave("schema", alerts, {"columns": columns})
    _refuse(batch, alerts, f"{len(alerts)} things are not as declared")
    return {**result, "columns": len(columns)}


def quality(*, dataset: str, window_hours: float, latest_fraction: float, max_age: float) -> Result:
    """Checks the newest rows for missing, repeated and impossible values, and for their age; fails where one fails."""
    from mlops.data_quality.quality import check, missing_shares

    batch = Batch.read(dataset, window_hours, latest_fraction)
    checks = check(batch.table, batch.declared, max_age=max_age, now=datetime.now(UTC))
    alerts = [one.alert for one in checks if not one.passed]
    details = {"checks": [asdict(one) for one in checks], "missing": missing_shares(batch.table, batch.declared)}
    result = batch.leave("quality", alerts, details)
    _refuse(batch, alerts, f"{len(alerts)} of {len(checks)} checks failed")
    return {**result, "checks": len(checks)}


def report(*, dataset: str) -> Result:
    """Writes one page and one JSON of what the steps of this run found, tells what has changed, and fails a bad run."""
    from mlops.data_quality import ledger, summary
    from mlops.data_quality.report import as_html, as_json

    identity = RunIdentity.from_environment()
    store, left_in = reports_bucket(), folder(identity)
    left = {step: store.find_bytes(f"{left_in}/{step}.json") for step in STEPS}
    found = summary.current({step: Findings.decode(content) if content else None for step, content in left.items()})
    now = datetime.now(UTC)
    facts = {"dataset": dataset, "run": identity.run_id, "written_at": now.isoformat(timespec="seconds")}
    page = json.dumps(as_json(found, facts), ensure_ascii=False, allow_nan=False, indent=1)
    keys = {"report": f"{identity.run_key}/report.html", "report_json": f"{identity.run_key}/report.json"}
    store.write_bytes(keys["report_json"], page.encode())
    store.write_bytes(keys["report"], as_html(found, facts).encode())
    address = f"s3://{store.bucket}/{keys['report']}"
    log.info("the report: %s", address)

    alerts, causes = summary.alerts(found), summary.causes(found)
    window = next((findings.window for findings in found.values() if findings), f"unread-{identity.run_id}")
    told = ledger.notify_changes(
        store,
        alerts,
        lambda changes: _notify(changes, dataset, address),
        judged=summary.judged(found),
        dataset=dataset,
        window=window,
        run=f"{identity.dag_id}/{identity.run_id}",
        now=now,
    )
    log.info("%d alerts; people were told of %d changes", len(alerts), len(told))
    if causes:
        listed = "".join(f"\n- {cause}" for cause in causes)
        raise Refused(
            f"dataset {dataset}: the newest rows are not good{listed}\nReport: {address}. Correct the data, or the "
            f"declaration in mlops/datasets/{dataset}.py, and clear this run"
        )
    return {**keys, "alerts": len(alerts), "notified": len(told), "steps": summary.states(found)}


def _leave_out_tutorials(site: Path) -> None:
    """Data Docs brings 3 MB of animated tutorials that its pages show only when asked to."""
    for image in site.glob("static/images/*.gif"):
        image.unlink()


def _refuse(batch: Batch, alerts: Sequence[Alert], what: str) -> None:
    if alerts:
        listed = "".join(f"\n- {alert.text}" for alert in alerts)
        raise Refused(
            f"dataset {batch.declared.name}, the newest {len(batch.table):,} rows: {what}{listed}\nCorrect the data, "
            f"or the declaration in mlops/datasets/{batch.declared.name}.py, and clear this run"
        )


def _notify(changes: Sequence[Change], dataset: str, report: str) -> None:
    from mlops.notify.message import tell

    try:
        tell("\n".join(change.line(dataset, report) for change in changes))
    except Failure as failure:
        raise Failure(
            f"{failure}. Nobody was told of {len(changes)} changes; the report is there: {report}"
        ) from failure
    metrics = Statsd.from_environment()
    for alert in (change.alert for change in changes if change.what != "over"):
        metrics.count("alerts", dataset=dataset, column=alert.column, kind=alert.kind)


def _validate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--data", required=True, metavar="KEY", help="the table's key in the data bucket")


def _quality_options(parser: argparse.ArgumentParser) -> None:
    batch_options(parser)
    parser.add_argument(
        "--max-age", type=float, default=0.0, metavar="HOURS", help="of the newest event; 0: not checked (%(default)s)"
    )


def _report_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", required=True)


COMMANDS = {
    "validate": (validate, _validate_options),
    "schema": (schema, batch_options),
    "quality": (quality, _quality_options),
    "report": (report, _report_options),
}
