"""The metrics of a task's end that Airflow 3.3 emits only where a worker ends the task, and there not all.

Names and tags are those of airflow/sdk/execution_time/task_runner.py. tests/dags/test_task_metrics.py runs a stock
operator and ours and compares what arrives; what Airflow counts itself one day is counted twice then, which it sees.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any, Self

_RETRIED = "up_for_retry"


@dataclass(frozen=True)
class TaskMetrics:
    """What the metrics of one try say, as the worker knows it: the triggerer is told no more than the task's names.

    started: Unix time. operator: name of its class. tags: those of all its metrics. retried: whether Airflow tries
    again after a failure.
    """

    started: float
    operator: str
    tags: dict[str, str]
    retried: bool

    @classmethod
    def of(cls, ti: Any) -> Self:
        """Of the task instance that a worker runs."""
        # As the API server decides it, unless a user cleared the task while it ran: then it ends here anyway.
        retried = ti.max_tries != 0 and ti.try_number <= ti.max_tries
        return cls(ti.start_date.timestamp(), type(ti.task).__name__, dict(ti.stats_tags), retried)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def emit(self, state: str) -> None:
        """Emits what a worker would of a task that ends as `success`, `failed` or `skipped`, from the triggerer.

        The duration is Airflow's own of a deferred task, from the start of its worker to now: the waits for the pod,
        for its node and image, and for the triggerer are in it. As on a worker a skipped task has none, and a failure
        that is tried again is one, whose state is `up_for_retry`.
        """
        # The triggerer has prepared these before it forked the process of its triggers; the SDK's would send nothing.
        from airflow.observability import stats

        ended = _RETRIED if state == "failed" and self.retried else state
        stats.incr("ti.finish", tags={**self.tags, "state": ended})
        if state == "skipped":
            return
        kind = "successes" if state == "success" else "failures"
        stats.incr(f"operator_{kind}", tags={**self.tags, "operator_name": self.operator})
        stats.incr(f"ti_{kind}", tags=self.tags)
        stats.timing("task.duration", (time.time() - self.started) * 1000, tags=self.tags)


def count_failure(ti: Any) -> None:
    """Counts, on a worker, a failure that is not tried again: Airflow emits its state and duration, and counts none."""
    from airflow.sdk.observability import stats

    stats.incr("operator_failures", tags={**ti.stats_tags, "operator_name": type(ti.task).__name__})
    stats.incr("ti_failures", tags=ti.stats_tags)
