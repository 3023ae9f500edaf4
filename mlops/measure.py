"""What a command measures of its work. The command line adds how it ended, and mlops/stores/metrics.py pushes it.

A command only says what it counted: `count_records(rows)`, or `count` and `gauge` with a name that is declared here.
Nothing is sent before the command has ended, so a number costs nothing where it is measured.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from mlops.result import Result

SECONDS = "maestro_command_seconds_total"
RECORDS = "maestro_command_records_total"
ERRORS = "maestro_command_errors_total"

Error = Literal["refused", "failed", "crashed"]
Series = tuple[str, tuple[str, ...]]  # a metric and the values of its labels, in their order


@dataclass(frozen=True)
class Metric:
    """A metric, under the name by which Prometheus knows it.

    labels: beside those of every metric (group, command, dag_id, task_id).
    of: of a gauge, the label that says what it is of. All that a command measured of it last stands until it measures
    it again; a counter, which has none, belongs to the one pod that counted.
    """

    help: str
    labels: tuple[str, ...] = ()
    of: str | None = None


METRICS: Mapping[str, Metric] = {
    SECONDS: Metric("Seconds from a command's start to its end"),
    RECORDS: Metric("Records that commands processed: rows, readings, or what else one is made for"),
    ERRORS: Metric(
        "Commands that failed. refused: what it was given is wrong; failed: it said why; crashed: an error of the code",
        ("kind",),
    ),
    "maestro_alerts_total": Metric("Findings of a data set that people were told of", ("dataset", "column", "kind")),
    "maestro_messages_sent_total": Metric("Messages that a channel took", ("channel",)),
    "maestro_messages_lost_total": Metric(
        "Messages that a channel did not take, for some of those whom it tells or for all", ("channel",)
    ),
    "maestro_anomaly_rate": Metric("Share of the newest rows that are anomalous, 0 to 1", ("dataset",), "dataset"),
    "maestro_anomaly_rate_expected": Metric("That share in the reference", ("dataset",), "dataset"),
    "maestro_drift_effect": Metric(
        "Least share of a column's newest rows that lie elsewhere than in the reference, 0 to 1",
        ("dataset", "column"),
        "dataset",
    ),
    "maestro_materialization_rows_read_total": Metric("Rows read of the offline store", ("view",)),
    "maestro_materialization_rows_written_total": Metric("Entities set in the online store", ("view",)),
    "maestro_materialization_rows_not_newer_total": Metric("Entities of which it held newer values", ("view",)),
    "maestro_materialization_seconds": Metric("Seconds that a view took", ("view",), "view"),
    "maestro_materialization_age_seconds": Metric(
        "Age of the newest event served, when it was checked", ("view",), "view"
    ),
    "maestro_materialization_null_share": Metric("Share of values served that are missing, 0 to 1", ("view",), "view"),
    "maestro_push_rows_written_total": Metric("Entities set in the online store by a push", ("view",)),
    "maestro_push_age_seconds": Metric("Age of the newest event, when it was pushed", ("view",), "view"),
}


@dataclass
class Measured:
    """What one command measured, `mlops GROUP COMMAND`."""

    group: str
    command: str
    counters: dict[Series, float] = field(default_factory=dict)
    gauges: dict[Series, float] = field(default_factory=dict)
    _begun: float = field(default_factory=time.monotonic)

    def end(self, error: Error | None) -> None:
        """The command ended now, by an error of this kind if by any. A skipped one has none."""
        self.add(SECONDS, time.monotonic() - self._begun)
        if error is not None:
            self.add(ERRORS, 1, kind=error)

    def add(self, name: str, value: float, **labels: object) -> None:
        series = _series(name, labels)
        self.counters[series] = self.counters.get(series, 0) + value


_now = Measured("", "")


def begin(group: str, command: str) -> Measured:
    """Where from now on all is written that is measured in this process."""
    global _now
    _now = Measured(group, command)
    return _now


def count_records(number: float) -> None:
    """Adds to the records that the command processed. One whose result says its `rows` need not."""
    count(RECORDS, number)


def count_rows(result: Result) -> None:
    """Adds the `rows` of a command's result, where it is a number."""
    rows = result.get("rows")
    if isinstance(rows, int):
        count_records(rows)


def count(name: str, value: float = 1, **labels: object) -> None:
    """Adds to the counter."""
    _now.add(name, value, **labels)


def gauge(name: str, value: float, **labels: object) -> None:
    """Sets the gauge; a number that is not finite is left out."""
    if math.isfinite(value):
        _now.gauges[_series(name, labels)] = value


def _series(name: str, labels: Mapping[str, object]) -> Series:
    declared = METRICS[name].labels
    if labels.keys() != set(declared):
        raise TypeError(f"{name} has the labels {declared}, not {tuple(labels)}")
    return name, tuple(str(labels[label]) for label in declared)
