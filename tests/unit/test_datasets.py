from dataclasses import replace

import pandas as pd
import pytest

from mlops import datasets
from mlops.datasets.declaration import Clock, Column, Dataset, EpochSeconds, Label, SplitByTime
from mlops.result import Failure, Refused

SHUTTLE = datasets.get("shuttle")


def test_the_real_sets_are_declared():
    assert {"adult", "movielens", "shuttle"} <= set(datasets.names())


@pytest.mark.parametrize("name", datasets.names())
def test_each_declaration_bears_the_name_of_its_file_and_has_features(name):
    dataset = datasets.get(name)
    assert dataset.name == name
    assert dataset.features
    assert dataset.label.column not in [column.name for column in dataset.features]


def test_an_unknown_dataset_is_named_with_the_known_ones_and_the_remedy():
    with pytest.raises(Refused, match=r"'weather' is not declared: use one of adult, .*mlops/datasets/weather.py"):
        datasets.get("weather")


@pytest.mark.parametrize("name", ["declaration", "commands", "read", "os.path", "../shuttle"])
def test_a_module_that_declares_nothing_is_no_dataset(name):
    with pytest.raises(Refused, match="is not declared"):
        datasets.get(name)


def test_a_file_that_declares_another_name_is_refused(tmp_path, monkeypatch):
    (tmp_path / "weather.py").write_text("from mlops.datasets.shuttle import DATASET\n")
    monkeypatch.setattr(datasets, "__path__", [*datasets.__path__, str(tmp_path)])
    with pytest.raises(Failure, match=r"mlops/datasets/weather.py must set DATASET to a Dataset named 'weather'"):
        datasets.get("weather")


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"label": Label("absent", equals=1)}, "absent"),
        ({"label": Label("f1", equals=1)}, "declare feature=False"),
        ({"key": ("absent",)}, "absent"),
        ({"entity": "absent"}, "absent"),
        ({"event_time": EpochSeconds("absent")}, "absent"),
        ({"event_time": None, "split": SplitByTime()}, "a split by time needs an event time"),
        ({"columns": (*SHUTTLE.columns, Column("f1", "number"))}, "declared once"),
        ({"columns": (*SHUTTLE.columns, Column("label", "number"))}, "added and not declared"),
    ],
)
def test_a_declaration_that_contradicts_itself_is_refused(change, cause):
    with pytest.raises(ValueError, match=cause):
        replace(SHUTTLE, **change)


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"kind": "category"}, "a category has values"),
        ({"kind": "integer", "values": ("a",)}, "a category has values"),
        ({"kind": "identifier", "low": 0}, "only an integer or a number has low and high"),
        ({"kind": "number", "fill": 0}, "fill needs nullable"),
    ],
)
def test_a_column_that_contradicts_itself_is_refused(options, cause):
    with pytest.raises(ValueError, match=cause):
        Column("name", **options)


@pytest.mark.parametrize("rule", [{}, {"equals": 1, "at_least": 1}])
def test_a_label_has_one_rule(rule):
    with pytest.raises(ValueError, match="either equals or at_least"):
        Label("name", **rule)


@pytest.mark.parametrize(
    ("label", "values", "expected"),
    [
        (Label("x", equals=1), [0, 1, None, 2], [0, 1, pd.NA, 0]),
        (Label("x", equals=0), [0, 1], [1, 0]),
        (Label("x", at_least=4), [3, 4, 5, None], [0, 1, 1, pd.NA]),
        (Label("x", at_least=4), ["3", "4", "four"], [0, 1, pd.NA]),
        (Label("x", equals="yes"), ["yes", "no", None], [1, 0, pd.NA]),
    ],
)
def test_the_label_follows_its_rule_and_is_missing_where_its_column_is(label, values, expected):
    found = label.of(pd.DataFrame({"x": values}))
    pd.testing.assert_series_equal(found, pd.Series(expected, dtype="Int64", name="label"))


def test_the_levels_of_a_category_include_what_fills_it():
    assert Column("x", "category", values=("a",), nullable=True, fill="unknown").levels == ("a", "unknown")
    assert Column("x", "category", values=("a",), nullable=True, fill="a").levels == ("a",)


def test_a_clock_and_a_declared_dataset_are_values():
    assert isinstance(SHUTTLE.event_time, Clock)
    assert replace(SHUTTLE) == SHUTTLE
    assert isinstance(SHUTTLE, Dataset)
