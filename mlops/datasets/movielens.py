"""Ratings of films, read as clicks (MovieLens 100k; package recbole)."""

from mlops.datasets.declaration import Column, Dataset, EpochSeconds, Join, Label, Source, SplitByTime

_OCCUPATIONS = (
    "administrator artist doctor educator engineer entertainment executive healthcare homemaker lawyer librarian "
    "marketing none other programmer retired salesman scientist student technician writer"
)

DATASET = Dataset(
    name="movielens",
    description="A user's rating of a film; a rating of 4 or 5 counts as a click.",
    source=Source(
        file="ml-100k.inter",
        format="tsv",
        joins=(Join("ml-100k.user", on="user_id"), Join("ml-100k.item", on="item_id")),
        rename={
            "user_id:token": "user_id",
            "item_id:token": "item_id",
            "rating:float": "rating",
            "timestamp:float": "timestamp",
            "age:token": "age",
            "gender:token": "gender",
            "occupation:token": "occupation",
            "release_year:token": "release_year",
            "class:token_seq": "genres",
        },
    ),
    columns=(
        Column("user_id", "identifier"),
        Column("item_id", "identifier"),
        Column("age", "integer", low=1, high=120),
        Column("gender", "category", values=("F", "M")),
        Column("occupation", "category", values=tuple(_OCCUPATIONS.split())),
        Column("release_year", "identifier"),
        Column("genres", "identifier"),
        Column("timestamp", "integer", low=0, high=4_102_444_800, feature=False),  # to the year 2100
        Column("rating", "integer", low=1, high=5, feature=False),
    ),
    label=Label("rating", at_least=4),
    event_time=EpochSeconds("timestamp"),
    entity="user_id",
    key=("user_id", "item_id"),
    split=SplitByTime(test_fraction=0.2),
    rows=(1_000, 10_000_000),
    cadence=None,  # the ratings of 1997 and 1998: nothing is added to them
)
