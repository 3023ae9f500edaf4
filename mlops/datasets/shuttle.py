"""Sensor readings of a space shuttle's radiators, in order of time (Statlog; package river)."""

from datetime import UTC, datetime, timedelta

from mlops.datasets.declaration import Clock, Column, Dataset, Label, Source, SplitByTime

DATASET = Dataset(
    name="shuttle",
    description="Nine sensor readings a row; a row is anomalous where the radiator was not in its normal state.",
    source=Source(file="shuttle.csv.gz", format="csv", constants={"machine": "shuttle"}),
    columns=(
        Column("machine", "identifier", feature=False),
        Column("f1", "integer", low=0, high=200),
        Column("f2", "integer", low=-10_000, high=10_000),
        Column("f3", "integer", low=0, high=200),
        Column("f4", "integer", low=-10_000, high=10_000),
        Column("f5", "integer", low=-500, high=1_000),
        Column("f6", "integer", low=-50_000, high=50_000),
        Column("f7", "integer", low=-200, high=300),
        Column("f8", "integer", low=-1_000, high=1_000),
        Column("f9", "integer", low=-1_000, high=1_000),
        Column("anomaly", "integer", low=0, high=1, feature=False),
    ),
    label=Label("anomaly", equals=1),
    # The set gives an order but no times: a reading a minute keeps the order and makes a day of 1,440 rows.
    event_time=Clock(start=datetime(2026, 1, 1, tzinfo=UTC), every=timedelta(minutes=1)),
    entity="machine",
    split=SplitByTime(test_fraction=0.2),
    rows=(1_000, 10_000_000),
    cadence=None,  # a recording: nothing is added to it
)
