"""Waiting for fresh features, as a worker does it: against the answers of Airflow's API."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import Asset
from airflow.sdk.api.datamodels._generated import AssetEventResponse, AssetResponse
from airflow.sdk.exceptions import AirflowRescheduleException, AirflowSensorTimeout
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import AssetEventsResult, GetAssetEventByAsset
from airflow.sdk.execution_time.context import InletEventsAccessors

from mlops.airflow.authoring.freshness import ONLINE_FEATURES, FreshFeatures

NOW = datetime.now(UTC)


class Api:
    """The supervisor of a task, which knows when the features were updated."""

    def __init__(self) -> None:
        self.updates: list[datetime] = []
        self.asked: list[GetAssetEventByAsset] = []

    def send(self, message: GetAssetEventByAsset) -> AssetEventsResult:
        self.asked.append(message)
        assert message.name == "online-features"
        found = sorted(self.updates, reverse=not message.ascending)[: message.limit]
        return AssetEventsResult(asset_events=[event(when) for when in found])


def event(when: datetime) -> AssetEventResponse:
    asset = AssetResponse(name="online-features", uri="online-features", group="asset", extra={})
    return AssetEventResponse(
        id=1, timestamp=when, asset=asset, created_dagruns=[], source_task_id="validate_online_features"
    )


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    found = Api()
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", found, raising=False)
    return found


def sensor(**options: Any) -> FreshFeatures:
    return FreshFeatures(task_id="fresh_features", **options)


def context(task: FreshFeatures, started: datetime | None = None, run_after: datetime = NOW) -> Any:
    ti = SimpleNamespace(get_first_reschedule_date=lambda _: started)
    dag_run = SimpleNamespace(run_after=run_after)
    return {"ti": ti, "dag_run": dag_run, "inlet_events": InletEventsAccessors(task.inlets)}


def test_fresh_features_are_not_waited_for(api: Api) -> None:
    api.updates = [NOW - timedelta(hours=25)]
    task = sensor()
    task.execute(context(task))
    assert len(api.asked) == 1
    assert api.asked[0].limit == 1, "the events of years are not read for the newest"


def test_the_newest_update_counts(api: Api) -> None:
    api.updates = [NOW - timedelta(days=30), NOW - timedelta(hours=1), NOW - timedelta(days=3)]
    task = sensor()
    task.execute(context(task))


@pytest.mark.parametrize("updates", [[], [NOW - timedelta(hours=26, minutes=1)]], ids=["never", "too old"])
def test_what_is_not_fresh_is_looked_for_again_in_a_minute_without_holding_a_slot(
    api: Api, updates: list[datetime]
) -> None:
    api.updates = updates
    task = sensor()
    with pytest.raises(AirflowRescheduleException) as raised:
        task.execute(context(task))
    assert raised.value.reschedule_date - datetime.now(UTC) < timedelta(minutes=1)


def test_an_update_that_comes_while_it_waits_ends_the_wait(api: Api) -> None:
    task = sensor()
    with pytest.raises(AirflowRescheduleException):
        task.execute(context(task))
    api.updates = [datetime.now(UTC)]
    task.execute(context(task, started=NOW - timedelta(minutes=40)))


@pytest.mark.parametrize(
    ("updates", "told"),
    [([], "never updated"), ([datetime(2026, 1, 1, 2, 20, tzinfo=UTC)], "last updated at 2026-01-01T02:20:00+00:00")],
    ids=["never", "too old"],
)
def test_a_wait_of_an_hour_fails_with_the_remedy(api: Api, updates: list[datetime], told: str) -> None:
    api.updates = updates
    task = sensor()
    with pytest.raises(
        AirflowSensorTimeout, match=rf"not fresh: {re.escape(told)}.* trigger feature_materialization"
    ) as raised:
        task.execute(context(task, started=NOW - timedelta(hours=1, minutes=1)))
    assert "26 h ago is the limit" in str(raised.value)


def test_just_before_the_hour_is_over_it_still_waits(api: Api) -> None:
    task = sensor()
    with pytest.raises(AirflowRescheduleException):
        task.execute(context(task, started=datetime.now(UTC) - timedelta(minutes=59)))


def test_another_age_can_be_asked_for(api: Api) -> None:
    api.updates = [NOW - timedelta(hours=2)]
    task = sensor(max_age=timedelta(hours=1))
    with pytest.raises(AirflowRescheduleException):
        task.execute(context(task))


SUNDAY = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("run", "updated", "fresh"),
    [
        (timedelta(hours=5), timedelta(hours=1, minutes=4), True),
        (timedelta(hours=5), timedelta(minutes=59), False),  # a run of the day before that took until now
        (timedelta(hours=5), timedelta(days=3), True),  # cleared in the middle of the week
        (timedelta(hours=1), timedelta(hours=1), True),
        (timedelta(minutes=30), timedelta(hours=-22), True),  # nothing was due since
        (timedelta(minutes=30), timedelta(hours=-24), False),
    ],
)
def test_an_update_counts_from_when_it_last_was_due_before_the_run(
    api: Api, run: timedelta, updated: timedelta, fresh: bool
) -> None:
    api.updates = [SUNDAY + updated]
    task = sensor(due=time(1))
    at = context(task, run_after=SUNDAY + run)
    assert task.poke(at) is fresh


def test_a_wait_for_what_was_due_fails_with_the_moment(api: Api) -> None:
    task = sensor(due=time(1))
    overdue = context(task, started=NOW - timedelta(hours=2), run_after=SUNDAY + timedelta(hours=5))
    with pytest.raises(AirflowSensorTimeout, match=re.escape("and 2026-03-01T01:00:00+00:00 is the limit")):
        task.execute(overdue)


def test_the_asset_is_the_one_that_materialization_updates() -> None:
    assert Asset("online-features") == ONLINE_FEATURES
    assert sensor().inlets == [ONLINE_FEATURES]
