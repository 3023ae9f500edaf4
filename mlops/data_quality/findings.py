"""What a step found: kept as JSON beside the other steps' findings of the run, where the report looks for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from mlops.config import RunIdentity
from mlops.keys import slug
from mlops.notify.problems import Problem
from mlops.result import JSON

# Each step's findings and the task that leaves them, in order; a step that comes later is not run when one fails.
STEPS = {
    "window": "select_window",
    "schema": "validate_schema",
    "quality": "check_quality",
    "drift": "detect_drift",
    "anomalies": "detect_anomalies",
}
ALL_COLUMNS = "all"  # the column of an alert that is about whole rows

Kind = Literal["future", "schema", "quality", "drift", "anomalies", "missing"]


@dataclass(frozen=True)
class Alert:
    """Something that people should know of a batch.

    column: of the raw table, or ALL_COLUMNS. value, threshold: in the unit that `text` names.
    """

    kind: Kind
    column: str
    value: float
    threshold: float
    text: str

    @property
    def problem(self) -> Problem:
        """As what people are told of it."""
        return Problem(self.kind, self.column, self.text, self.value, self.threshold)


@dataclass(frozen=True)
class Findings:
    """What one step found in one batch.

    begun: when the run began to judge. A run that is cleared begins anew, and what it found before counts no more.
    window: names the batch; two runs that judge the same rows of the same data have the same.
    details: what the report shows of it.
    """

    step: str
    dataset: str
    begun: str
    window: str
    data_version: str
    event_time_shift_seconds: int
    batch: Mapping[str, JSON]
    alerts: tuple[Alert, ...]
    details: Mapping[str, Any]

    @property
    def passed(self) -> bool:
        return not self.alerts

    def encode(self) -> bytes:
        return json.dumps({**asdict(self), "passed": self.passed}, ensure_ascii=False, allow_nan=False).encode()

    @classmethod
    def decode(cls, content: bytes) -> Findings:
        fields = {"begun": "", **json.loads(content)}  # which a release before this one did not write
        del fields["passed"]
        return cls(**{**fields, "alerts": tuple(Alert(**alert) for alert in fields["alerts"])})


def folder(identity: RunIdentity) -> str:
    """Where the steps of a DAG run leave their findings, in the reports bucket."""
    return f"data-validation/{slug(identity.dag_id)}/{slug(identity.run_id)}"
