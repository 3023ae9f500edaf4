"""Whether a user likes a film, from what is known of both."""

from mlops.models.declaration import Model

MODEL = Model(
    name="click-through",
    description="Estimates whether a user gives a film four or five stars.",
    dataset="movielens",
    metric="auc",
    threshold=0.75,
    slices=("gender", "age"),
)
