"""What a table says of itself in the attributes that Parquet keeps beside its columns, as tags of an MLflow run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from mlops.datasets.declaration import EVENT_TIME
from mlops.registry.record import EVENT_TIME_SHIFT, FEATURE_SCHEMA, FEATURE_SERVICE, SERVED_AGE, Record, period_tag
from mlops.result import Failure

if TYPE_CHECKING:
    import pandas as pd


def feature_contract(table: pd.DataFrame, key: str, service: str | None) -> dict[str, str]:
    """Tags of the feature service and schema that the table says it was made by; none where it was made by none.

    Raises Failure where it was not made by the service, or says so of columns that it does not have, or does not say
    of which age its values are.
    """
    found = table.attrs.get("feature_service")
    if found != service:
        raise Failure(
            f"{key} was made by feature service {found!r} and not by {service!r}: give the table that "
            "'python -m mlops features historical' wrote for it"
        )
    if service is None:
        return {}
    schema: dict[str, str] = table.attrs["feature_schema"]
    missing = sorted(reference for reference in schema if reference.partition(":")[2] not in table)
    if missing:
        raise Failure(f"{key} lacks features of its feature service {service}: {', '.join(missing)}: make it anew")
    if "served_age" not in table.attrs:
        raise Failure(
            f"{key} does not say how old its features are when they are served: it was made by an earlier release; "
            "make it anew with 'python -m mlops features historical'"
        )
    shift = table.attrs.get("event_time_shift_seconds", 0)
    return {
        FEATURE_SERVICE: service,
        FEATURE_SCHEMA: json.dumps(schema, separators=(",", ":")),
        SERVED_AGE: table.attrs["served_age"],
        **({EVENT_TIME_SHIFT: str(shift)} if shift else {}),
    }


def check_served_age(table: pd.DataFrame, key: str, record: Record) -> None:
    """Raises Failure where the features of a test set are of another age than those that the run's model was fitted on.

    That age is the one at which they are served, so the gate would judge another model than the one that is served.
    """
    age, found = record.tags.get(SERVED_AGE), table.attrs.get("served_age")
    if age != found:
        raise Failure(
            f"{key} has features of the age {found!r}, and run {record.run_id} was fitted on those of {age!r}: give "
            "the test set that 'python -m mlops features historical' wrote beside the run's training set"
        )


def period(table: pd.DataFrame, part: str) -> dict[str, str]:
    """The tag of the first and the last event of a table; none where it holds no times."""
    if EVENT_TIME not in table:
        return {}
    times = table[EVENT_TIME]
    return {period_tag(part): f"{times.min().isoformat()}/{times.max().isoformat()}"}
