import gzip
from collections.abc import Callable
from dataclasses import replace

import pandas as pd
import pytest

from mlops import datasets
from mlops.data_quality.suite import conform
from mlops.data_quality.validate import check
from mlops.datasets.declaration import LABEL
from mlops.result import EXIT_REFUSED
from tests.conftest import raw_rows

SHUTTLE = datasets.get("shuttle")
ROWS = 49_097


@pytest.mark.parametrize("name", ["shuttle", "movielens", "adult"])
def test_the_real_sets_hold_what_is_declared(tables, tmp_path, name):
    outcome = check(tables(name).raw, datasets.get(name), tmp_path)
    assert outcome.failures == ()
    assert outcome.expectations > 3 * len(datasets.get(name).columns)


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
    "an empty table": (lambda table: table.head(0), ["the table is empty: 0 rows, at least 1,000 expected"]),
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
    table = raw_rows(SHUTTLE, tmp_path).to_pandas()
    assert sorted(check(table, SHUTTLE, tmp_path).failures) == sorted(expected)


def test_a_value_outside_of_a_category_is_shown(tables, tmp_path):
    table = tables("adult").raw.copy()
    table.loc[:2, "gender"] = "female"
    (failure,) = check(table, datasets.get("adult"), tmp_path).failures
    assert failure == "column 'gender' must be one of 2 known values: 3 of 48,842 values are not, such as 'female'"


def test_the_same_user_may_not_rate_the_same_film_twice(tables, tmp_path):
    raw = tables("movielens").raw
    again = raw.head(1).assign(rating=1)
    (failure,) = check(pd.concat([raw, again], ignore_index=True), datasets.get("movielens"), tmp_path).failures
    assert failure == "rows repeat: 2 of 100,001 share user_id and item_id with another, 0.0% may"


def test_rows_may_repeat_where_the_declaration_lets_them(tables, tmp_path):
    raw = tables("shuttle").raw
    assert check(pd.concat([raw, raw]), replace(SHUTTLE, duplicates=None), tmp_path).passed


def test_conforming_changes_no_value_of_a_good_table(tables):
    for name in ("shuttle", "movielens", "adult"):
        raw = tables(name).raw
        conformed = conform(raw, datasets.get(name)).drop(columns=LABEL)
        pd.testing.assert_frame_equal(conformed, raw, check_dtype=False)


def test_a_run_stops_at_bad_data_with_a_readable_summary_and_a_report(platform, datasets_dir):
    change, _ = BAD["a word among the numbers"]
    platform.data.write_bytes(SHUTTLE.object_key("shuttle.csv.gz"), spoiled(datasets_dir, change))
    data = str(platform.result_of("ingestion", "download", "--dataset", "shuttle")["data"])
    cause = platform.failure_of("data-quality", "validate", "--dataset", "shuttle", "--data", data, code=EXIT_REFUSED)
    assert cause.startswith("dataset shuttle: 1 of 46 expectations failed\n- column 'f1' is declared an integer")
    assert "clear the task that downloads it" in cause
    assert report_page(platform, cause.split(f"s3://{platform.s3.reports_bucket}/")[1].split(". ")[0])


def test_good_data_passes_with_a_report(platform, datasets_dir):
    platform.result_of("ingestion", "load", "--dataset", "shuttle", "--folder", str(datasets_dir))
    data = str(platform.result_of("ingestion", "download", "--dataset", "shuttle")["data"])
    result = platform.result_of("data-quality", "validate", "--dataset", "shuttle", "--data", data)
    assert (result["passed"], result["expectations"], result["failed"]) == (True, 46, [])
    assert "shuttle" in report_page(platform, str(result["report"]))


def report_page(platform, key: str) -> str:

    return platform.reports.read_bytes(key).decode()
