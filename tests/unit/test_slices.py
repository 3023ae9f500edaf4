"""How a model does on parts of the test set: which parts there are, and that each is measured by itself."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops import datasets, models
from mlops.datasets.declaration import Column, Dataset, Label, Source, SplitByKey
from mlops.features import repository
from mlops.models.declaration import Model
from mlops.result import Refused
from mlops.training.measures import Answers, Rows
from mlops.training.slices import PARTS, slices

VISITS = Dataset(
    name="visits",
    description="",
    source=Source("visits.csv", "csv"),
    columns=(
        Column("age", "number", nullable=True),
        Column("plan", "category", values=("free", "paid"), nullable=True),
        Column("page", "identifier"),
        Column("bought", "integer", feature=False),
    ),
    label=Label("bought", at_least=1),
    split=SplitByKey(),
    rows=(1, 100),
)


def measured(columns: dict[str, object], truth: list[int], said: list[float]) -> dict[str, dict[str, float]]:
    """By all of the columns."""
    probability = np.array(said)
    rows = Rows.of(pd.Series(truth), VISITS)
    answers = Answers((probability >= 0.5).astype(int), np.column_stack([1 - probability, probability]))
    return slices(list(columns), pd.DataFrame(columns), VISITS, rows, answers)


def test_each_value_of_a_category_is_measured_by_itself():
    plans = ["free", "paid", "paid", "free", None]
    found = measured({"plan": plans}, [1, 1, 0, 0, 1], [0.9, 0.1, 0.8, 0.2, 0.3])
    assert list(found) == ["plan free", "plan paid", "plan missing"]
    assert (found["plan free"]["rows"], found["plan free"]["auc"], found["plan free"]["accuracy"]) == (2, 1, 1)
    assert (found["plan paid"]["rows"], found["plan paid"]["auc"], found["plan paid"]["accuracy"]) == (2, 0, 0)
    assert "auc" not in found["plan missing"], "one class has none"


def test_numbers_are_told_apart_by_how_large_they_are():
    found = measured({"age": [5.0, 1, 1, 9, np.nan, 3, 2]}, [0, 1] * 3 + [1], [0.5] * 7)
    assert {name: part["rows"] for name, part in found.items()} == {
        "age 1": 2,
        "age 2 to 3": 2,
        "age 5 to 9": 2,
        "age missing": 1,
    }


@given(st.lists(st.one_of(st.none(), st.integers(-3, 3).map(float)), min_size=1, max_size=40))
def test_every_row_lies_in_one_part_of_a_column(values):
    ages = pd.Series(values, dtype=float)
    found = measured({"age": ages}, [1] * len(ages), [0.5] * len(ages))
    assert sum(part["rows"] for part in found.values()) == len(ages)
    assert len(found) <= PARTS + 1


@pytest.mark.parametrize("name", ["page", "weight"])
def test_what_is_no_category_and_no_number_of_the_test_set_is_refused(name):
    rows = Rows.of(pd.Series([0, 1]), VISITS)
    with pytest.raises(Refused, match=f"slices by {name}: .* change `slices`"):
        slices([name], pd.DataFrame({"page": ["a", "b"]}), VISITS, rows, Answers.baseline(rows))


def columns_of(model: Model) -> set[str]:
    if model.feature_service:
        return {name for name, kind in repository.service_of(model).features.items() if kind != "String"}
    return {column.name for column in datasets.get(model.dataset).features if column.kind != "identifier"}


@pytest.mark.parametrize("name", models.names())
def test_the_slices_of_each_model_are_columns_that_it_reads(name):
    assert set(models.get(name).slices) <= columns_of(models.get(name))
