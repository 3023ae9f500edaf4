"""Whether a radiator is in its normal state, from its readings of the last minutes and the last hour."""

from mlops.models.declaration import Model

MODEL = Model(
    name="sensor-failure-windows",
    description="Finds readings of a radiator that is not in its normal state, beside those before them.",
    dataset="shuttle",
    feature_service="sensor_failure_v1",
    metric="f1",
    threshold=0.8,
)
