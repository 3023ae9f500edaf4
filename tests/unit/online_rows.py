"""Rows of feature views in a real Redis, as our materialization writes them."""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import pyarrow as pa

from mlops.features.materialization.encode import encode, fields
from mlops.features.materialization.view import Field, MaterializedView
from mlops.features.repository import VIEWS
from mlops.stores.feature_store import EVENT_TIMESTAMP, PROJECT
from mlops.stores.online_store import OnlineStore
from tests.servers import Redis

_KINDS = {"Float64": "DOUBLE", "Int64": "INT64", "String": "STRING"}
_TYPES = {"Float64": pa.float64(), "Int64": pa.int64(), "String": pa.string()}


def put(redis: Redis, view: str, entity: str, values: Mapping[str, object], event: float | None = None) -> None:
    """One entity; features that are not named are missing. event: seconds since 1970, now where none is given."""
    put_all(redis, view, {entity: values}, event)


def put_all(redis: Redis, view: str, rows: Mapping[str, Mapping[str, object]], event: float | None = None) -> None:
    """Many entities of a view, whose names are the keys."""
    (spec,) = (each for each in VIEWS if each.name == view)
    made = MaterializedView(
        name=view,
        project=PROJECT,
        join_keys=(Field(spec.key.column, "STRING"),),
        features=tuple(Field(feature, _KINDS[dtype]) for feature, dtype in spec.features.items()),
        timestamp=EVENT_TIMESTAMP,
        created=None,
        bucket="b",
        prefix="p/",
    )
    moment = datetime.fromtimestamp(time.time() if event is None else event, UTC)
    values: Sequence[Mapping[str, object]] = list(rows.values())
    columns = {spec.key.column: pa.array(list(rows)), EVENT_TIMESTAMP: pa.array([moment] * len(rows), _TIME)}
    columns |= {name: pa.array([row.get(name) for row in values], _TYPES[of]) for name, of in spec.features.items()}
    encoded = encode(pa.table(columns), made)
    OnlineStore(redis.settings("features")).put_newer(
        fields(made), [(encoded.keys, [encoded.stamps, *encoded.columns])]
    )


_TIME = pa.timestamp("us", "UTC")
