"""Waits, inside Airflow, until the online features are fresh."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset
from airflow.sdk.exceptions import AirflowSensorTimeout

from mlops.airflow.authoring.waiting import PatientSensor

if TYPE_CHECKING:
    from airflow.sdk import Context

OFFLINE_FEATURES = Asset("offline-features")  # the last task of feature_engineering_pipeline updates it
ONLINE_FEATURES = Asset("online-features")  # the last task of feature_materialization updates it


_BY = {OFFLINE_FEATURES.name: "feature_engineering_pipeline", ONLINE_FEATURES.name: "feature_materialization"}


class FreshFeatures(PatientSensor):
    """Succeeds at once where the features were updated within `max_age`, else when they next are.

    features: the asset that is looked at. That of the online ones is updated where feature_materialization has ended
    well, that of the offline ones where feature_engineering_pipeline has. due: the time of day (UTC) at which they are
    to be updated; given, an update counts from the last such time on before the run, and `max_age` does not.

    It holds no slot between two looks. A look is one request to Airflow's own API, so it needs no pod.
    """

    def __init__(
        self,
        *,
        features: Asset = ONLINE_FEATURES,
        # Materialization is daily and may take its two hours: a day's run that came late is fresh, one left out is not.
        max_age: timedelta = timedelta(hours=26),
        due: time | None = None,
        # Longer than a materialization takes, so one that runs already, or is triggered now, is waited for.
        timeout: timedelta | float | None = timedelta(hours=1),
        poke_interval: timedelta | float = timedelta(minutes=1),
        **options: Any,
    ) -> None:
        super().__init__(
            timeout=timeout,
            poke_interval=poke_interval,
            inlets=[features],
            **options,
        )
        self.features = features
        self.max_age = max_age
        self.due = due

    def poke(self, context: Context) -> bool:
        """Whether the newest update is new enough."""
        newest = _newest(context, self.features)
        self.log.info("%s: %s", self._named, _described(newest))
        return newest is not None and newest >= self._oldest(context)

    def execute(self, context: Context) -> Any:
        """Raises AirflowSensorTimeout, with the remedy, after `timeout`."""
        try:
            return super().execute(context)
        except AirflowSensorTimeout as error:
            limit = f"{self.max_age / timedelta(hours=1):g} h ago"
            if self.due is not None:
                limit = self._oldest(context).isoformat(timespec="seconds")
            raise AirflowSensorTimeout(
                f"the {self._named} are not fresh: {_described(_newest(context, self.features))}, and {limit} is "
                f"the limit: trigger {_BY[self.features.name]}, or see why its last run failed, then clear this task"
            ) from error

    def _oldest(self, context: Context) -> datetime:
        """The moment from which on an update is new enough."""
        if self.due is None:
            return datetime.now(UTC) - self.max_age
        run: datetime = context["dag_run"].run_after.astimezone(UTC)
        today = datetime.combine(run.date(), self.due, UTC)
        return today if today <= run else today - timedelta(days=1)

    @property
    def _named(self) -> str:
        return self.features.name.replace("-", " ")


def _newest(context: Context, features: Asset) -> datetime | None:
    """When the features were last updated; None where they never were."""
    last = list(context["inlet_events"][features].ascending(False).limit(1))
    return last[0].timestamp if last else None


def _described(newest: datetime | None) -> str:
    return "never updated" if newest is None else f"last updated at {newest.isoformat(timespec='seconds')}"
