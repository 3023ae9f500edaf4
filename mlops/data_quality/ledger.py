"""Which alerts people were told of: an object for each, so that the same window raises each of them once."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from mlops.data_quality.findings import Alert
from mlops.keys import slug

if TYPE_CHECKING:
    from mlops.stores.object_store import ObjectStore

# A run that has claimed an alert and not told it by then has died: its deadline is over.
_CLAIM_HELD = timedelta(minutes=15)


def notify_once(
    store: ObjectStore,
    alerts: Sequence[Alert],
    send: Callable[[Sequence[Alert]], object],
    *,
    dataset: str,
    window: str,
    run: str,
    now: datetime,
) -> list[Alert]:
    """Sends the alerts that nobody was told of yet, all at once, and gives them back.

    Whatever `send` raises is raised; the alerts then stay to be told, by this run at once or by another one later.
    """
    mine = [alert for alert in alerts if _claim(store, _key(dataset, window, alert), run, now)]
    if mine:
        send(mine)
    for alert in mine:
        store.write_bytes(_key(dataset, window, alert), _entry(run, now, told=True))
    return mine


def _claim(store: ObjectStore, key: str, run: str, now: datetime) -> bool:
    """Whether the alert is this run's to tell: nobody has claimed it, or who did has not told it."""
    if store.write_new(key, _entry(run, now, told=False)):
        return True
    held = json.loads(store.read_bytes(key))
    if held["told"]:
        return False
    if held["run"] != run and now - datetime.fromisoformat(held["at"]) < _CLAIM_HELD:
        return False
    store.write_bytes(key, _entry(run, now, told=False))
    return True


def _key(dataset: str, window: str, alert: Alert) -> str:
    return f"alerts/{slug(dataset)}/{slug(window)}/{alert.kind}/{slug(alert.column)}.json"


def _entry(run: str, now: datetime, *, told: bool) -> bytes:
    return json.dumps({"run": run, "at": now.isoformat(), "told": told}).encode()
