"""Whether a user likes a film, from what the two did before."""

from mlops.models.declaration import Model

MODEL = Model(
    name="click-through-activity",
    description="Estimates whether a user gives a film four or five stars, from the activity of both.",
    dataset="movielens",
    feature_service="click_through_v1",
    metric="auc",
    threshold=0.75,
    slices=("user_events", "item_events"),
)
