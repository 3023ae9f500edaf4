"""The one run of MLflow that counts for a task or a job, however often it was tried."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mlops.stores.tracking import SUPERSEDED

if TYPE_CHECKING:
    from mlflow.entities import Run

    from mlops.stores.tracking import Tracking


def finished_run(
    tracking: Tracking, experiment: str, tag: str, value: str, reason: str, params: Mapping[str, object] | None = None
) -> Run | None:
    """The first run with the tag that an earlier try finished; with `params`, only one that has these and no others.

    All its other runs that are finished or look as if they were running are ended for the reason, so that one at most
    counts. A try that was taken for dead may finish its run after a later one ended it: that one does not count.
    """
    wanted = None if params is None else {name: str(param) for name, param in params.items()}
    kept = None
    for run in reversed(tracking.runs(experiment, tag, value)):
        counts = run.info.status == "FINISHED" and SUPERSEDED not in run.data.tags
        if kept is None and counts and wanted in (None, run.data.params):
            kept = run
        elif run.info.status in ("FINISHED", "RUNNING"):
            tracking.end_run(run.info.run_id, reason)
    return kept
