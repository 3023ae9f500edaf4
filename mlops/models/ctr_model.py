"""Whether a user likes a film, from who they are, which film it is, and what the two did before."""

from mlops.models.declaration import Model

MODEL = Model(
    name="ctr_model",
    description="Estimates whether a user clicks on a film, by a network that knows both.",
    dataset="movielens",
    family="torch",
    feature_service="click_through_v1",
    reads_keys=True,
    metric="auc",
    threshold=0.65,
    slices=("user_events", "item_events"),
)
