"""Remove what DAG runs left in the data bucket a long time ago."""

from __future__ import annotations

import argparse
import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from mlops.registry.record import RUN_KEY
from mlops.result import Result
from mlops.retention.folders import RUNS, kept_for, old
from mlops.stores.object_store import data_bucket
from mlops.stores.tracking import Tracking

if TYPE_CHECKING:
    from mlflow.entities import Run

log = logging.getLogger(__name__)


def runs(*, days: int, dry_run: bool) -> Result:
    """Removes folders of DAG runs that nothing was written to for so long, never one that a registered model is of."""
    before = datetime.now(UTC) - timedelta(days=days)
    # Listed before models are asked for: what is registered meanwhile is of a run that is young.
    store = data_bucket()
    written = store.written(RUNS)
    kept = {folder for run in Tracking.from_environment().registered_runs() for folder in _kept(run)}
    found = old(written, before, kept)
    for folder, keys in sorted(found.items()):
        if not dry_run:
            store.remove(keys)
        log.info("%s %s (%d objects)", "would remove" if dry_run else "removed", folder, len(keys))
    objects = sum(map(len, found.values()))
    return {"folders": len(found), "objects": objects, "kept_for_models": len(kept), "dry_run": dry_run}


def _kept(run: Run) -> set[str]:
    texts = [*run.data.tags.values(), *run.data.params.values()]
    return kept_for(run.data.tags.get(RUN_KEY), texts)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--days", type=_days, required=True, help="since anything was written to the folder")
    parser.add_argument("--dry-run", action="store_true", help="say what would be removed, and remove nothing")


def _days(text: str) -> int:
    days = int(text)
    if days < 1:
        raise argparse.ArgumentTypeError(f"{text} would remove what runs are working on: use 1 or more")
    return days


COMMANDS = {"runs": (runs, _options)}
