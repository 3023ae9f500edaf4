"""The feature repository: which features there are, whose they are, and which model learns from which of them.

The declarations are plain, so that computing features needs no Feast; `objects` makes Feast's own objects of them.
A registered model depends on the names and types here: `features apply` refuses a change that would break one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, time, timedelta
from typing import TYPE_CHECKING, Literal

from mlops import datasets
from mlops.features.served_age import Materialized, Pushed, ServedAge
from mlops.models.declaration import Model
from mlops.result import Failure

if TYPE_CHECKING:
    import pandas as pd
    from feast.feast_object import FeastObject

    from mlops.stores.feature_store import FeatureStoreConfig

Dtype = Literal["Float64", "Int64", "String"]
Partition = Literal["1d", "1mo"]

WINDOWS = (10, 60)  # minutes: the last readings, and the level they leave
STATISTICS = ("mean", "std", "min", "max")
RECENT_DAYS = 30

# feature_engineering_pipeline builds at this hour and has feature_materialization follow; each has half an hour.
NIGHTLY = Materialized(at=time(1), takes=timedelta(hours=1))
# feature_push looks for new readings every ten minutes.
MINUTES = Pushed(within=timedelta(minutes=15))


@dataclass(frozen=True)
class EntitySpec:
    """An entity: the thing that features are about. column: its identifier, in the raw set and in requests."""

    name: str
    column: str
    description: str


@dataclass(frozen=True)
class FeatureViewSpec:
    """Features of one entity, computed from one data set; features: name -> type.

    reach: for how long an event changes later features; None: for ever. partition: the time that one file holds, a day
    or, where events are few, a month of the calendar (UTC).
    """

    name: str
    description: str
    dataset: str
    key: EntitySpec
    features: Mapping[str, Dtype]
    reach: timedelta | None
    partition: Partition

    @property
    def folder(self) -> str:
        """Where its files lie in the feast bucket."""
        return f"{self.name}/"

    def file(self, start: date) -> str:
        """The file of the partition that begins then. Sorted by name, files are in order of time."""
        return f"{self.folder}{self.dataset}/{start.isoformat()}.parquet"


@dataclass(frozen=True)
class FeatureServiceSpec:
    """The features that a model is trained on and served with.

    served_age: how old its values are when they are served; a model is trained and judged on values of that age.
    before: how long before a row's event its features are read. Where the features count the very events that are to
        be predicted, this keeps a label out of its own features.
    """

    name: str
    description: str
    dataset: str
    views: tuple[FeatureViewSpec, ...]
    served_age: ServedAge
    before: timedelta = timedelta()

    def __post_init__(self) -> None:
        if isinstance(self.served_age, Materialized) and self.served_age.takes <= self.before:
            raise ValueError(f"feature service {self.name}: what is materialized is served later than {self.before}")

    def as_of(self, times: pd.Series) -> pd.Series:
        """The moment as of which the features of a row whose event is at each of the times (UTC) are served."""
        return self.served_age.as_of(times, self.before)

    @property
    def features(self) -> dict[str, str]:
        """The type of each feature by its column in a training table, in declared order."""
        return {name: dtype for view in self.views for name, dtype in view.features.items()}

    @property
    def schema(self) -> dict[str, str]:
        """The type of each feature by its Feast reference, `view:feature`."""
        return {f"{view.name}:{name}": dtype for view in self.views for name, dtype in view.features.items()}


MACHINE = EntitySpec("machine", "machine", "A machine with sensors.")
USER = EntitySpec("user", "user_id", "A person who rates films.")
ITEM = EntitySpec("item", "item_id", "A film.")

SENSORS = tuple(column.name for column in datasets.get("shuttle").features)


def _windows_of(sensor: str) -> dict[str, Dtype]:
    windows = (f"{sensor}_{statistic}_{minutes}m" for minutes in WINDOWS for statistic in STATISTICS)
    return dict.fromkeys((sensor, *windows), "Float64")


def _activity(who: str) -> dict[str, Dtype]:
    return {
        f"{who}_events": "Int64",
        f"{who}_click_rate": "Float64",
        f"{who}_events_{RECENT_DAYS}d": "Int64",
        f"{who}_click_rate_{RECENT_DAYS}d": "Float64",
        f"{who}_seconds_since_last": "Int64",
    }


VIEWS = (
    FeatureViewSpec(
        "sensor_windows",
        f"Each sensor's reading, and its mean, spread and range over the last {WINDOWS[0]} and {WINDOWS[1]} minutes.",
        dataset="shuttle",
        key=MACHINE,
        features={name: dtype for sensor in SENSORS for name, dtype in _windows_of(sensor).items()},
        reach=timedelta(minutes=max(WINDOWS)),
        partition="1d",
    ),
    FeatureViewSpec(
        "user_activity",
        f"How much a user rated and liked, over all and in the last {RECENT_DAYS} days.",
        dataset="movielens",
        key=USER,
        features=_activity("user"),
        reach=None,
        partition="1mo",
    ),
    FeatureViewSpec(
        "item_activity",
        f"How much a film was rated and liked, over all and in the last {RECENT_DAYS} days.",
        dataset="movielens",
        key=ITEM,
        features=_activity("item"),
        reach=None,
        partition="1mo",
    ),
    FeatureViewSpec(
        "user_profile",
        "What a user had said of themselves.",
        dataset="movielens",
        key=USER,
        features={"age": "Int64", "gender": "String", "occupation": "String"},
        reach=None,
        partition="1mo",
    ),
)

SERVICES = (
    FeatureServiceSpec(
        "sensor_failure_v1",
        "Whether a machine is in a state that it should not be in.",
        dataset="shuttle",
        views=tuple(view for view in VIEWS if view.dataset == "shuttle"),
        served_age=MINUTES,
    ),
    FeatureServiceSpec(
        "click_through_v1",
        "Whether a user clicks on a film.",
        dataset="movielens",
        views=tuple(view for view in VIEWS if view.dataset == "movielens"),
        served_age=NIGHTLY,
        before=timedelta(seconds=1),  # times there are whole seconds, so nothing is lost but the event itself
    ),
)


def datasets_with_features() -> list[str]:
    """The data sets that features are computed from, sorted."""
    return sorted({view.dataset for view in VIEWS})


def views_of(dataset: str) -> tuple[FeatureViewSpec, ...]:
    """The views computed from a data set. Raises Failure where there is none."""
    found = tuple(view for view in VIEWS if view.dataset == dataset)
    if not found:
        raise Failure(_without(dataset, "view"))
    return found


def service_named(name: str) -> FeatureServiceSpec | None:
    """The service of a name; None where there is none, as where a model was trained on one that is gone since."""
    return next((service for service in SERVICES if service.name == name), None)


def service_of(model: Model) -> FeatureServiceSpec:
    """The service that a model is trained on. Raises Failure where it has none, or there is none of its data set."""
    found = next((service for service in SERVICES if service.name == model.feature_service), None)
    if found is None or found.dataset != model.dataset:
        of = ", ".join(service.name for service in SERVICES if service.dataset == model.dataset) or "none"
        raise Failure(
            f"model {model.name!r} names the feature service {model.feature_service!r}; those of dataset "
            f"{model.dataset} are: {of}"
        )
    return found


def objects(config: FeatureStoreConfig) -> list[FeastObject]:
    """Everything declared here as Feast's objects, each after those that it names."""
    from feast import Entity, FeatureService, FeatureView, Field, ValueType, types

    entities = {
        key: Entity(name=key.name, join_keys=[key.column], value_type=ValueType.STRING, description=key.description)
        for key in dict.fromkeys(view.key for view in VIEWS)
    }
    views = {
        view.name: FeatureView(
            name=view.name,
            description=view.description,
            entities=[entities[view.key]],
            # The join key's type is said as well, so that Feast does not read the files to find it.
            schema=[
                Field(name=view.key.column, dtype=types.String),
                *(Field(name=name, dtype=getattr(types, dtype)) for name, dtype in view.features.items()),
            ],
            source=config.source(view.name),
            ttl=timedelta(),  # a value holds until the next one: age is judged where a value is used
            tags={"dataset": view.dataset},
        )
        for view in VIEWS
    }
    services = [
        FeatureService(
            name=service.name,
            description=service.description,
            features=[views[view.name] for view in service.views],
            tags={"dataset": service.dataset, "served_age": str(service.served_age)},
        )
        for service in SERVICES
    ]
    return [*entities.values(), *views.values(), *services]


def _without(dataset: str, what: str) -> str:
    known = ", ".join(datasets_with_features())
    return (
        f"dataset {dataset!r} has no feature {what}: use one of {known}, or declare one in mlops/features/repository.py"
    )
