"""The rows that a step judges, and where it leaves what it found in them."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from mlops import datasets
from mlops.config import RunIdentity
from mlops.data_quality.findings import Alert, Findings, folder
from mlops.datasets.declaration import Dataset
from mlops.result import Refused
from mlops.stores.dataset_files import DatasetFiles, EventTimeShift, LoadedDataset
from mlops.stores.object_store import data_bucket, reports_bucket

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)


class Batch(NamedTuple):
    """The rows that a step judges, and all that it needs beside them."""

    declared: Dataset
    raw: LoadedDataset
    table: pd.DataFrame

    @classmethod
    def read(cls, dataset: str, window_hours: float, latest_fraction: float) -> Self:
        """The newest rows of a dataset. Raises Refused where it has none."""
        from mlops.data_quality.window import latest

        declared = datasets.get(dataset)
        raw = DatasetFiles(data_bucket()).read(declared)
        whole = raw.table.collect().to_pandas()
        table = latest(whole, window_hours, latest_fraction)
        log.info("%s: the newest %d of %d rows are judged", dataset, len(table), len(whole))
        if table.empty:
            raise Refused(f"dataset {dataset} has no rows: load a whole file with 'make data'")
        return cls(declared, raw, table)

    def leave(self, step: str, alerts: Sequence[Alert], details: Mapping[str, Any]) -> dict[str, Any]:
        """Writes a step's findings where the report looks for them; gives what all steps hand back."""
        from mlops.data_quality.window import span, window_name

        raw = self.raw
        left = Findings(
            step=step,
            dataset=self.declared.name,
            window=window_name(self.table, raw.data_version, raw.shift_seconds),
            data_version=raw.data_version,
            event_time_shift_seconds=raw.shift_seconds,
            batch=span(self.table),
            alerts=tuple(alerts),
            details=details,
        )
        key = f"{folder(RunIdentity.from_environment())}/{step}.json"
        reports_bucket().write_bytes(key, left.encode())
        for alert in alerts:
            log.warning("%s, column %s: %s", alert.kind, alert.column, alert.text)
        shift = EventTimeShift(raw.shift_seconds).note
        return {"findings": key, "rows": len(self.table), "alerts": len(alerts), **shift}


def batch_options(parser: argparse.ArgumentParser) -> None:
    """What says which rows are judged."""
    parser.add_argument("--dataset", required=True)
    parser.add_argument(
        "--window-hours", type=float, default=24.0, help="of event time before the newest event (%(default)s)"
    )
    parser.add_argument(
        "--latest-fraction", type=float, default=0.2, help="of the rows, where these have no times (%(default)s)"
    )
