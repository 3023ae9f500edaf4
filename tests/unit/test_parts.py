import pandas as pd
import polars as pl
import pytest

from mlops import datasets
from mlops.datasets.declaration import EVENT_TIME, LABEL
from mlops.features.parts import check, later_events
from mlops.features.split import split, split_in_three
from mlops.result import Refused

NAMES = ("train", "validation", "test")


def part(first: str, users: str, labels: tuple[int, ...] = (0, 1)) -> pd.DataFrame:
    rows = len(users)
    times = pd.date_range(first, periods=rows, freq="h", tz="UTC")
    return pd.DataFrame(
        {
            "user_id": list(users),
            "a": range(rows),
            EVENT_TIME: times,
            LABEL: [labels[i % len(labels)] for i in range(rows)],
        }
    )


def parts(**changed: pd.DataFrame) -> dict[str, pd.DataFrame]:
    made = {
        "train": part("2026-01-01", "abc"),
        "validation": part("2026-02-01", "cd"),
        "test": part("2026-03-01", "de"),
    }
    return {**made, **changed}


def checked(made: dict[str, pd.DataFrame]) -> int:
    return check(made, ["user_id", "a"], {name: each["user_id"] for name, each in made.items()})


def test_parts_that_follow_each_other_are_fit_and_the_entities_of_several_are_counted():
    assert checked(parts()) == 2, "c and d"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"validation": part("2026-02-01", "")}, "validation is empty"),
        ({"test": part("2026-03-01", "de").drop(columns="a")}, "test lacks a"),
        ({"train": part("2026-01-01", "abc", (1,))}, r"the label of train is \[1\]"),
        ({"test": part("2026-03-01", "de", (0, 2))}, r"the label of test is \[0, 2\]"),
        ({"train": part("2026-02-15", "abd")}, "1 of the entities have a later event in train than in validation"),
    ],
)
def test_parts_that_are_not_fit_to_train_on_are_refused_with_what_is_wrong(changed, said):
    with pytest.raises(Refused, match=said):
        checked(parts(**changed))


def test_clicks_are_split_in_three_by_time_with_the_test_set_that_they_are_split_in_two_with(tables):
    dataset = datasets.get("movielens")
    rows = pl.from_pandas(tables("movielens").clean).lazy()
    found = dict(zip(NAMES, (each.collect().to_pandas() for each in split_in_three(rows, dataset)), strict=True))
    pd.testing.assert_frame_equal(found["test"], split(rows, dataset)[1].collect().to_pandas())
    assert sum(map(len, found.values())) == len(tables("movielens").clean)
    assert len(found["validation"]) / len(tables("movielens").clean) == pytest.approx(0.1, abs=0.01)
    late = later_events(found, {name: each["user_id"] for name, each in found.items()})
    assert set(late.values()) == {0}


def test_a_split_by_a_hash_draws_the_validation_set_anew():
    dataset = datasets.get("adult")
    columns = {name: [str(i) for i in range(4000)] for name in dataset.split_key}
    rows = pl.DataFrame({**columns, LABEL: [i % 2 for i in range(4000)]}).lazy()
    train, validation, test = (each.collect() for each in split_in_three(rows, dataset))
    assert len(train) + len(validation) + len(test) == 4000
    assert len(validation) / 4000 == pytest.approx(0.125 * (1 - dataset.split.test_fraction), abs=0.03)
