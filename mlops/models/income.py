"""Whether somebody earns more than 50,000 dollars a year, from a census."""

from mlops.models.declaration import Model

MODEL = Model(
    name="income",
    description="Estimates whether somebody earns more than 50,000 dollars a year.",
    dataset="adult",
    metric="average_precision",
    threshold=0.7,
    slices=("gender", "race", "age"),
)
