"""Whether a radiator is in its normal state, from its readings at that moment."""

from mlops.models.declaration import Model

MODEL = Model(
    name="sensor-failure",
    description="Finds readings of a radiator that is not in its normal state.",
    dataset="shuttle",
    metric="f1",
    threshold=0.8,
)
