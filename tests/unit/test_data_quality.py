import gzip
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pandas as pd
import polars as pl
import pytest

from mlops import datasets
from mlops.data_quality.validate import check
from mlops.datasets.declaration import Column, Dataset, Label, Source, SplitByKey, Timestamp
from mlops.features.preprocess import preprocess
from mlops.result import EXIT_REFUSED
from tests.conftest import raw_rows
from tests.unit.kinds import HOUSES, houses

SHUTTLE = datasets.get("shuttle")
ROWS = 49_097


def failures(table: pd.DataFrame | pl.DataFrame, dataset: Dataset = SHUTTLE) -> tuple[str, ...]:
    rows = table if isinstance(table, pl.DataFrame) else pl.from_pandas(table)
    return check(rows.lazy(), dataset).failures


@pytest.mark.parametrize("name", ["shuttle", "movielens", "adult"])
def test_the_real_sets_hold_what_is_declared(tables, name):
    outcome = check(pl.from_pandas(tables(name).raw).lazy(), datasets.get(name))
    assert outcome.failures == ()
    assert len(outcome.judgements) > 3 * len(datasets.get(name).columns)


def with_value(column: str, row: int, value: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(table: pd.DataFrame) -> pd.DataFrame:
        table[column] = table[column].astype(object)
        table.loc[row, column] = value
        return table

    return change


# What is done to the real file, and all that validation may say about it.
BAD = {
    "a word among the numbers": (
        with_value("f1", 7, "abc"),
        ["column 'f1' is declared an integer: 1 of 49,097 values are not, such as 'abc'"],
    ),
    "a fraction among the whole numbers": (
        with_value("f3", 7, "1.5"),
        ["column 'f3' is declared an integer: 1 of 49,097 values are not, such as '1.5'"],
    ),
    "a missing column": (lambda table: table.drop(columns="f4"), ["column 'f4' is missing"]),
    "a missing label column": (lambda table: table.drop(columns="anomaly"), ["column 'anomaly' is missing"]),
    "a label that is missing in two rows": (
        lambda table: with_value("anomaly", 8, "")(with_value("anomaly", 7, "NaN")(table)),
        ["column 'anomaly' must not be empty: 2 of 49,097 values are missing"],
    ),
    "a missing value": (
        with_value("f9", 7, ""),
        ["column 'f9' must not be empty: 1 of 49,097 values are missing"],
    ),
    "one class": (
        lambda table: table.assign(anomaly=0),
        ["the label has one class only: both of anomaly = 1 and its opposite must occur"],
    ),
    "an unknown class": (
        with_value("anomaly", 7, "2"),
        ["column 'anomaly' must lie in [0, 1]: 1 of 49,097 values do not, such as '2'"],
    ),
    "a value out of range": (
        with_value("f1", 7, "201"),
        ["column 'f1' must lie in [0, 200]: 1 of 49,097 values do not, such as '201'"],
    ),
    "too few rows": (
        lambda table: table.head(900),
        ["the table has 900 rows: 1,000 to 10,000,000 expected"],
    ),
    "a file that was appended to itself": (
        lambda table: pd.concat([table, table]),
        ["rows repeat: 98,194 of 98,194 share all of their 11 columns with another, 0.0% may"],
    ),
    "two things wrong": (
        lambda table: with_value("f1", 7, "abc")(table.drop(columns="f2")),
        [
            "column 'f1' is declared an integer: 1 of 49,097 values are not, such as 'abc'",
            "column 'f2' is missing",
        ],
    ),
}


def spoiled(datasets_dir, change: Callable[[pd.DataFrame], pd.DataFrame]) -> bytes:
    """The real file after the change, as it would be delivered."""
    table = pd.read_csv(datasets_dir / "shuttle/shuttle.csv.gz")
    return gzip.compress(change(table).to_csv(index=False).encode(), compresslevel=1)


@pytest.mark.parametrize(("change", "expected"), BAD.values(), ids=list(BAD))
def test_bad_data_is_described_by_its_cause_and_nothing_else(datasets_dir, tmp_path, change, expected):
    (tmp_path / "shuttle.csv.gz").write_bytes(spoiled(datasets_dir, change))
    assert sorted(failures(raw_rows(SHUTTLE, tmp_path))) == sorted(expected)


def test_of_an_empty_table_nothing_else_is_said(tables):
    assert failures(tables("shuttle").raw.head(0)) == ("the table is empty: 0 rows, at least 1,000 expected",)


def test_a_value_outside_of_a_category_is_shown(tables):
    table = tables("adult").raw.copy()
    table.loc[:2, "gender"] = "female"
    (failure,) = failures(table, datasets.get("adult"))
    assert failure == "column 'gender' must be one of 2 known values: 3 of 48,842 values are not, such as 'female'"


def test_the_same_user_may_not_rate_the_same_film_twice(tables):
    raw = tables("movielens").raw
    again = raw.head(1).assign(rating=1)
    (failure,) = failures(pd.concat([raw, again], ignore_index=True), datasets.get("movielens"))
    assert failure == "rows repeat: 2 of 100,001 share user_id and item_id with another, 0.0% may"


def test_rows_may_repeat_where_the_declaration_lets_them(tables):
    raw = tables("shuttle").raw
    assert failures(pd.concat([raw, raw]), replace(SHUTTLE, duplicates=None)) == ()


ORDERS = Dataset(
    name="orders",
    description="Orders of a shop: a set of one's own with a key of one column.",
    source=Source(file="orders.csv", format="csv"),
    columns=(
        Column("order_id", "identifier", feature=False),
        Column("amount", "number"),
        Column("discount", "number", low=0, nullable=True),
        Column("items", "integer", low=1),
        Column("channel", "category", values=("shop", "web"), nullable=True),
        Column("returned", "integer", low=0, high=1, feature=False),
    ),
    label=Label("returned", equals=1),
    split=SplitByKey(),
    rows=(2, 1000),
    key=("order_id",),
)
GOOD = {
    "order_id": ["a", "b", "c", "d"],
    "amount": [1.5, 2.0, -3.0, 1e308],
    "discount": [None, 0.5, None, 0.0],
    "items": [1, 2, 3, 4],
    "channel": ["shop", None, "web", "web"],
    "returned": [0, 1, 0, 1],
}


def orders(**columns: object) -> tuple[str, ...]:
    """What is wrong with the good orders after these columns took the place of theirs."""
    return check(pl.LazyFrame(GOOD | columns, strict=False), ORDERS).failures


def test_a_key_of_one_column_is_checked_as_one_of_several_is():
    assert orders() == ()
    assert orders(order_id=["a", "b", "a", "a"]) == ("rows repeat: 3 of 4 share order_id with another, 0.0% may",)
    assert orders(order_id=["a", None, "b", None]) == (
        "column 'order_id' must not be empty: 2 of 4 values are missing",
    )


def test_a_share_of_the_keys_may_repeat_where_it_is_declared():
    rows = pl.LazyFrame(GOOD | {"order_id": ["a", "a", "b", "c"]})
    assert check(rows, replace(ORDERS, duplicates=0.5)).passed
    assert check(rows, replace(ORDERS, duplicates=0.49)).failures


def test_a_column_without_any_value_is_named_whether_values_may_be_missing_or_not():
    nothing = pl.Series([None] * 4, dtype=pl.Null)
    for none in (nothing, nothing.cast(pl.Float64), nothing.cast(pl.String), pl.Series([float("nan")] * 4)):
        assert orders(amount=none) == ("column 'amount' must not be empty: 4 of 4 values are missing",)
        assert orders(discount=none) == (
            "column 'discount' holds no value: deliver it, or take it out of the declaration",
        )
    assert orders(channel=nothing) == (
        "column 'channel' holds no value: deliver it, or take it out of the declaration",
    )


def test_a_label_has_the_classes_that_preprocessing_gives_it():
    for label, column in (
        (Label("returned", equals=1), Column("returned", "category", values=("0", "1"), feature=False)),
        (Label("returned", at_least=1), Column("returned", "category", values=("0", "1"), feature=False)),
    ):
        dataset = replace(ORDERS, label=label, columns=(*ORDERS.columns[:-1], column))
        for values, passed in ((["0", "1", "0", "1"], True), (["0", "0", "0", "0"], False)):
            rows = pl.LazyFrame(GOOD | {"returned": values})
            assert preprocess(rows, dataset).collect()["label"].to_list() == [int(value) for value in values]
            assert check(rows, dataset).passed == passed


def test_a_row_without_an_event_time_fails_the_whole_table_and_is_told_of_once():
    columns = (*ORDERS.columns, Column("at", "identifier", feature=False))
    dataset = replace(ORDERS, columns=columns, event_time=Timestamp("at", zone="UTC"))
    times = [datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2, 3)]
    rows = pl.LazyFrame(GOOD | {"at": ["2026-01-01", "2026-01-02", "2026-01-03", "soon"], "event_time": [*times, None]})
    assert check(rows, dataset).failures == ("1 of 4 rows have no event time",)
    assert check(rows.with_columns(event_time=pl.lit(times[0])), dataset).passed
    assert check(rows.drop("event_time"), dataset).failures == ("the table has no event times",)
    unsaid = rows.with_columns(at=pl.col("at").replace("soon", None))
    assert check(unsaid, dataset).failures == ("column 'at' must not be empty: 1 of 4 values are missing",)
    optional = replace(dataset, columns=(*columns[:-1], replace(columns[-1], nullable=True)))
    assert check(unsaid, optional).failures == ("1 of 4 rows have no event time",)


def test_a_number_is_finite_and_a_missing_one_may_be_written_as_nan():
    infinite = [1.0, float("inf"), float("-inf"), 2.0]
    assert orders(amount=infinite) == ("column 'amount' must be finite: 2 of 4 values are not, such as 'inf', '-inf'",)
    assert orders(discount=[1.0, float("inf"), 2.0, None]) == (
        "column 'discount' must lie in [0, ...]: 1 of 4 values do not, such as 'inf'",
    )
    assert orders(items=[1.0, float("inf"), 2.0, 3.0]) == (
        "column 'items' is declared an integer: 1 of 4 values are not, such as 'inf'",
    )
    assert orders(amount=["1", "inf", "2", "3"]) == (
        "column 'amount' must be finite: 1 of 4 values are not, such as 'inf'",
    )
    assert orders(discount=[0.5, float("nan"), 0.1, None]) == ()


def test_values_of_several_types_are_read_as_what_is_declared_or_shown():
    assert orders(amount=["1", " 2.5 ", "1e3", "4"], items=["1", "2", "3", "4"]) == ()
    assert orders(amount=["1", "two", "n/a", "nan"]) == (
        "column 'amount' is declared a number: 3 of 4 values are not, such as 'two', 'n/a', 'nan'",
    )
    assert orders(returned=[True, False, True, False]) == ()
    assert orders(channel=[1, 2, 3, None]) == (
        "column 'channel' is declared a category: 3 of 4 values are not, such as '1', '2', '3'",
    )
    assert orders(items=[[1], [2], [3], []]) == (
        "column 'items' is declared an integer: 4 of 4 values are not, such as '[1]', '[2]', '[3]'",
    )
    assert orders(channel=pl.Series(["shop", "web", None, "fax"], dtype=pl.Categorical)) == (
        "column 'channel' must be one of 2 known values: 1 of 4 values are not, such as 'fax'",
    )


def test_whole_numbers_are_not_rounded_when_they_are_compared():
    exact = replace(ORDERS, columns=tuple(replace(c, high=2.0**53) if c.name == "items" else c for c in ORDERS.columns))
    rows = pl.LazyFrame(GOOD | {"items": [1, 2, 2**53, 2**53 + 1]})
    (failure,) = check(rows, exact).failures
    assert "1 of 4 values do not, such as '9007199254740993'" in failure


def test_a_run_stops_at_bad_data_with_a_readable_summary_and_a_report(platform, datasets_dir):
    change, _ = BAD["a word among the numbers"]
    platform.data.write_bytes(SHUTTLE.object_key("shuttle.csv.gz"), spoiled(datasets_dir, change))
    data = str(platform.result_of("ingestion", "download", "--dataset", "shuttle")["data"])
    cause = platform.failure_of("data-quality", "validate", "--dataset", "shuttle", "--data", data, code=EXIT_REFUSED)
    assert cause.startswith("dataset shuttle: 1 of 47 expectations failed\n- column 'f1' is declared an integer")
    assert "the declaration of dataset shuttle, and clear the task that downloads it" in cause
    assert report_page(platform, cause.split(f"s3://{platform.s3.reports_bucket}/")[1].split(". ")[0])


def test_good_data_passes_with_a_report(platform, datasets_dir):
    platform.result_of("ingestion", "load", "--dataset", "shuttle", "--folder", str(datasets_dir))
    data = str(platform.result_of("ingestion", "download", "--dataset", "shuttle")["data"])
    result = platform.result_of("data-quality", "validate", "--dataset", "shuttle", "--data", data)
    assert (result["passed"], result["expectations"], result["failed"]) == (True, 47, [])
    assert "shuttle" in report_page(platform, str(result["report"]))


def report_page(platform, key: str) -> str:

    return platform.reports.read_bytes(key).decode()


def test_each_declared_class_of_several_must_occur_and_a_number_may_be_any():
    assert failures(houses(500), HOUSES["multiclass"]) == failures(houses(500), HOUSES["regression"]) == ()
    no_flats = houses(500).query("type != 'flat'")
    (failure,) = failures(no_flats, HOUSES["multiclass"])
    assert failure == "the label has no row of 'flat': deliver some, or declare values that occur"
    assert failures(no_flats, HOUSES["regression"]) == ()
