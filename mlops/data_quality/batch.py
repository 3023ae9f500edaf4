"""The rows that the steps of a run judge, and where each step leaves what it found in them.

The first step writes them as a table, and beside them the facts that all steps need; the others read that table only.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from mlops import datasets
from mlops.config import RunIdentity
from mlops.data_quality.findings import Alert, Findings, folder
from mlops.datasets.declaration import Dataset
from mlops.result import JSON, Refused
from mlops.stores.dataset_files import SHIFT_FIELD, DatasetFiles, EventTimeShift
from mlops.stores.object_store import ObjectStore, data_bucket, reports_bucket

if TYPE_CHECKING:
    import polars as pl

log = logging.getLogger(__name__)

_QUARANTINED = 10_000  # rows of the future that are kept to be looked at


class Batch(NamedTuple):
    """A window of a dataset.

    table: a scan of its rows. data_version: of the set that they are of. shift_seconds: by how much their event times
    are later than in the set's files. window: `begun`, when the run began to judge, which each clearing does anew;
    `hours`; how many rows the set has (`of`); its events of the `future` and the `latest` of these; and the window's
    `end`, None where no row has a time.
    """

    declared: Dataset
    table: pl.LazyFrame
    data_version: str
    shift_seconds: int
    window: Mapping[str, Any]

    @classmethod
    def write(cls, dataset: str, hours: float, fraction: float, now: datetime) -> tuple[str, Self]:
        """Takes the newest window out of a set: the key of its table, and the batch.

        Raises Refused where the set has no rows, or none that can have been.
        """
        from mlops.data_quality.window import check_size, latest

        check_size(hours, fraction)
        declared, store, identity = datasets.get(dataset), data_bucket(), RunIdentity.from_environment()
        begun = now.isoformat()
        reports_bucket().write_bytes(f"{folder(identity)}/{_BEGUN}", json.dumps({"begun": begun}).encode())
        raw = DatasetFiles(store).read(declared)
        window = latest(raw.table, declared, hours=hours, fraction=fraction, now=now)
        about: dict[str, JSON] = {"begun": begun, "hours": hours, **window.about}
        if window.about["future"]:
            about["quarantine"] = identity.key("quarantine")
            store.write(identity.key("quarantine"), window.future.head(_QUARANTINED))
        facts: dict[str, JSON] = {"data_version": raw.data_version, SHIFT_FIELD: raw.shift_seconds, "window": about}
        key = identity.key("window")
        store.write(key, window.rows, facts)
        return key, cls.read(dataset, key)

    @classmethod
    def read(cls, dataset: str, data: str) -> Self:
        """The batch whose table lies at the key `data`. Raises Refused where it has no rows."""
        import polars as pl

        declared, store = datasets.get(dataset), data_bucket()
        table, facts = store.scan(data), store.facts(data)
        lacking = sorted({"data_version", SHIFT_FIELD, "window"} - set(facts))
        if lacking:
            raise Refused(
                f"s3://{store.bucket}/{data} says nothing of its {', '.join(lacking)}: give the key of a window, which "
                "'python -m mlops data-quality window' writes"
            )
        if not table.select(pl.len()).collect().item():
            raise Refused(f"dataset {declared.name} has no rows: load a whole file with 'make data'")
        return cls(declared, table, facts["data_version"], facts[SHIFT_FIELD], facts["window"])  # type: ignore[arg-type]

    def leave(self, step: str, alerts: Sequence[Alert], details: Mapping[str, Any]) -> dict[str, Any]:
        """Writes a step's findings where the report looks for them; gives what all steps hand back."""
        from mlops.data_quality.window import span, window_name

        judged = span(self.table)
        left = Findings(
            step=step,
            dataset=self.declared.name,
            begun=self.window["begun"],
            window=window_name(judged, self.data_version, self.shift_seconds),
            data_version=self.data_version,
            event_time_shift_seconds=self.shift_seconds,
            batch=judged,
            alerts=tuple(alerts),
            details=details,
        )
        key = f"{folder(RunIdentity.from_environment())}/{step}.json"
        reports_bucket().write_bytes(key, left.encode())
        for alert in alerts:
            log.warning("%s, column %s: %s", alert.kind, alert.column, alert.text)
        shift = EventTimeShift(self.shift_seconds).note
        return {"findings": key, "rows": judged["rows"], "alerts": len(alerts), **shift}


_BEGUN = "begun.json"


def begun(store: ObjectStore, identity: RunIdentity) -> str | None:
    """When the run last began to judge; findings of another time are those of a clearing before. None: it did not."""
    content = store.find_bytes(f"{folder(identity)}/{_BEGUN}")
    return None if content is None else str(json.loads(content)["begun"])


def batch_options(parser: argparse.ArgumentParser) -> None:
    """What says which rows are judged."""
    parser.add_argument("--dataset", required=True)
    parser.add_argument(
        "--data", required=True, metavar="KEY", help="of the window in the data bucket, which 'window' wrote"
    )


def window_options(parser: argparse.ArgumentParser) -> None:
    """What says which rows are taken as the newest."""
    parser.add_argument("--dataset", required=True)
    parser.add_argument(
        "--window-hours", type=float, default=24.0, help="of event time before the newest event (%(default)s)"
    )
    parser.add_argument(
        "--latest-fraction", type=float, default=0.2, help="of the rows, where these have no times (%(default)s)"
    )
