"""Check data against its dataset's declaration: a whole table, or its newest rows, and report on those."""

from __future__ import annotations

import argparse
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from mlops import datasets, measure
from mlops.config import RunIdentity
from mlops.data_quality.batch import Batch, batch_options, begun, window_options
from mlops.data_quality.findings import STEPS, Alert, Findings, folder
from mlops.datasets.declaration import EVENT_TIME
from mlops.keys import slug
from mlops.result import Failure, Refused, Result
from mlops.stores.object_store import data_bucket, reports_bucket

if TYPE_CHECKING:
    from mlops.notify.channels import Delivery
    from mlops.notify.problems import Change

log = logging.getLogger(__name__)


def validate(*, dataset: str, data: str) -> Result:
    """Checks a table against its declaration; fails, with a summary, where an expectation is not met.

    The report, Great Expectations' Data Docs, is written either way.
    """
    from mlops.data_quality.validate import check

    declared, identity, reports = datasets.get(dataset), RunIdentity.from_environment(), reports_bucket()
    outcome = check(data_bucket().scan(data), declared)
    from mlops.data_quality import docs  # only now: of the memory that the pass took, this takes some again

    with TemporaryDirectory() as site:
        docs.write(outcome.judgements, declared, Path(site))
        _leave_out_tutorials(Path(site))
        reports.upload_folder(Path(site), identity.run_key)
    report = f"{identity.run_key}/index.html"
    count = len(outcome.judgements)
    if not outcome.passed:
        failures = "".join(f"\n- {line}" for line in outcome.failures)
        raise Refused(
            f"dataset {declared.name}: {len(outcome.failures)} of {count} expectations failed{failures}\n"
            f"Report: s3://{reports.bucket}/{report}. Correct the data, or the declaration of dataset "
            f"{declared.name}, and clear the task that downloads it"
        )
    log.info("all %d expectations hold", count)
    return {"passed": True, "expectations": count, "failed": [], "report": report}


def window(*, dataset: str, window_hours: float, latest_fraction: float) -> Result:
    """Takes the newest rows out of a dataset, as the table that the other steps judge.

    Rows dated later than now, and than a clock may be wrong, are none of them: they are counted and kept apart.
    """
    key, batch = Batch.write(dataset, window_hours, latest_fraction, datetime.now(UTC))
    about, alerts = batch.window, []
    if future := about["future"]:
        text = f"{future:,} of {about['of']:,} rows are dated in the future, up to {about['latest']}: they are left out"
        alerts.append(Alert("future", EVENT_TIME, float(future), 0.0, text))
    result = batch.leave("window", alerts, {name: value for name, value in about.items() if name != "begun"})
    log.info("%s: the newest %d of %d rows are judged", dataset, result["rows"], about["of"])
    return {"data": key, **result, "of": about["of"], "future": future}


def schema(*, dataset: str, data: str) -> Result:
    """Checks that the newest rows have the declared columns, each of its declared type; fails where they do not."""
    from mlops.data_quality.schema import violations

    batch = Batch.read(dataset, data)
    alerts = violations(batch.table, batch.declared)
    wrong = {alert.column for alert in alerts}
    types = {name: str(dtype) for name, dtype in batch.table.collect_schema().items()}
    columns = [
        {"column": c.name, "declared": c.kind, "dtype": types.get(c.name, "missing"), "ok": c.name not in wrong}
        for c in batch.declared.columns
    ]
    result = batch.leave("schema", alerts, {"columns": columns})
    _refuse(batch, alerts, f"{len(alerts)} things are not as declared")
    return {**result, "columns": len(columns)}


def quality(*, dataset: str, data: str, max_age: float | None) -> Result:
    """Checks the newest rows for missing, repeated and impossible values, and for their age; fails where one fails."""
    from mlops.data_quality.quality import Check, check, freshness, missing_shares

    batch = Batch.read(dataset, data)
    checks = check(batch.table, batch.declared)
    end = batch.window["end"]
    fresh = freshness(batch.declared, end and datetime.fromisoformat(end), max_age, datetime.now(UTC))
    unchecked = ""
    if isinstance(fresh, Check):
        checks.append(fresh)
    else:
        unchecked = fresh
        log.info("%s: %s", dataset, unchecked)
    alerts = [one.alert for one in checks if not one.passed]
    missing = missing_shares(batch.table, batch.declared)
    details = {"checks": [asdict(one) for one in checks], "freshness": unchecked, "missing": missing}
    result = batch.leave("quality", alerts, details)
    _refuse(batch, alerts, f"{len(alerts)} of {len(checks)} checks failed")
    return {**result, "checks": len(checks), "freshness": unchecked or "checked"}


def report(*, dataset: str, states: Mapping[str, str | None]) -> Result:
    """Writes one page and one JSON of what the steps of this run found, tells what has changed, and fails a bad run."""
    from mlops.data_quality.report import as_html, as_json
    from mlops.data_quality.summary import Outcome
    from mlops.notify.problems import notify_changes

    identity = RunIdentity.from_environment()
    store, left_in = reports_bucket(), folder(identity)
    left = {step: store.find_bytes(f"{left_in}/{step}.json") for step in STEPS}
    outcome = Outcome.of(
        {step: Findings.decode(content) for step, content in left.items() if content}, begun(store, identity), states
    )
    now = datetime.now(UTC)
    facts = {"dataset": dataset, "run": identity.run_id, "written_at": now.isoformat(timespec="seconds")}
    page = json.dumps(as_json(outcome, facts), ensure_ascii=False, allow_nan=False, indent=1)
    keys = {"report": f"{identity.run_key}/report.html", "report_json": f"{identity.run_key}/report.json"}
    store.write_bytes(keys["report_json"], page.encode())
    store.write_bytes(keys["report"], as_html(outcome, facts).encode())
    address = f"s3://{store.bucket}/{keys['report']}"
    log.info("the report: %s", address)

    judged = next((findings.window for findings in outcome.found.values() if findings), f"unread-{identity.run_id}")
    told = notify_changes(
        store,
        [alert.problem for alert in outcome.alerts],
        lambda changes: _notify(changes, dataset, address),
        folder=f"problems/{slug(dataset)}",
        judged=outcome.judged,
        window=judged,
        run=f"{identity.dag_id}/{identity.run_id}",
        now=now,
    )
    log.info("%d alerts; people were told of %d changes", len(outcome.alerts), len(told.changes))
    if outcome.causes:
        listed, name = "".join(f"\n- {cause}" for cause in outcome.causes), _declared_name(dataset)
        raise Refused(
            f"dataset {name}: the newest rows are not good{listed}\nReport: {address}. Correct the data, or the "
            f"declaration of dataset {name}, and clear this run"
        )
    return {
        **keys,
        "alerts": len(outcome.alerts),
        "notified": len(told.changes),
        "lost": dict(told.lost),
        "steps": outcome.states,
    }


def _declared_name(dataset: str) -> str:
    """What a dataset that may be named by its model is called; the name as it is where its declaration is not read.

    Why it is not read is among the causes that are told with the name.
    """
    try:
        return datasets.get(dataset).name
    except Failure:
        return dataset


def _leave_out_tutorials(site: Path) -> None:
    """Data Docs brings 3 MB of animated tutorials that its pages show only when asked to."""
    for image in site.glob("static/images/*.gif"):
        image.unlink()


def _refuse(batch: Batch, alerts: Sequence[Alert], what: str) -> None:
    if alerts:
        listed = "".join(f"\n- {alert.text}" for alert in alerts)
        raise Refused(
            f"dataset {batch.declared.name}, the newest rows: {what}{listed}\nCorrect the data, "
            f"or the declaration of dataset {batch.declared.name}, and clear this run"
        )


def _notify(changes: Sequence[Change], dataset: str, report: str) -> Delivery:
    from mlops.notify.message import Message
    from mlops.notify.telling import tell

    delivery = tell(
        Message(
            "\n".join(
                change.line(f"{dataset}, column {change.problem.subject}, {change.problem.kind}", report)
                for change in changes
            )
        )
    )
    for problem in (change.problem for change in changes if delivery.told and change.what != "over"):
        measure.count("maestro_alerts_total", dataset=dataset, column=problem.subject, kind=problem.kind)
    return delivery


def _validate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--data", required=True, metavar="KEY", help="the table's key in the data bucket")


def _quality_options(parser: argparse.ArgumentParser) -> None:
    batch_options(parser)
    parser.add_argument(
        "--max-age",
        type=_max_age,
        metavar="HOURS",
        help="of the newest event; 0: not checked; 'declared', the default: twice the cadence of the dataset",
    )


def _report_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", required=True)
    parser.add_argument(
        "--states",
        type=_states,
        default={},
        metavar="JSON",
        help="how the run's tasks ended, by their names; without it that is told from what they left",
    )


def _max_age(text: str) -> float | None:
    if text == "declared":
        return None
    hours = float(text)
    if not 0 <= hours < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no age: give hours, 0 for any age, or 'declared'")
    return hours


def _states(text: str) -> dict[str, str | None]:
    states = json.loads(text)
    if not isinstance(states, dict):
        raise argparse.ArgumentTypeError(f'{text} is not like {{"validate_schema": "success"}}')
    return states


COMMANDS = {
    "validate": (validate, _validate_options),
    "window": (window, window_options),
    "schema": (schema, batch_options),
    "quality": (quality, _quality_options),
    "report": (report, _report_options),
}
