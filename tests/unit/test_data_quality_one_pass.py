"""What one pass of ours says of a table is what Great Expectations says of it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import great_expectations as gx
import numpy as np
import pandas as pd
import polars as pl
import pytest
from great_expectations.data_context.types.base import ProgressBarsConfig
from great_expectations.expectations.expectation_configuration import ExpectationConfiguration
from hypothesis import given
from hypothesis import strategies as st

from mlops import datasets
from mlops.data_quality import uniqueness
from mlops.data_quality.checks import Judgement, judge
from mlops.data_quality.expectations import Expectation, of_table
from mlops.data_quality.uniqueness import KeyHashes, hash_of, repeated
from mlops.datasets.declaration import LABEL, Column, Dataset, Label, Source, SplitByKey

NAMES = ["shuttle", "movielens", "adult"]
SMALL = Dataset(
    name="small",
    description="",
    source=Source(file="small.csv", format="csv"),
    columns=(
        Column("id", "identifier"),
        Column("whole", "integer", low=-3, high=3, nullable=True),
        Column("number", "number", high=2.5, nullable=True),
        Column("kind", "category", values=("a", "b", "d")),
        Column("hit", "integer", low=0, high=1, feature=False),
    ),
    label=Label("hit", equals=1),
    split=SplitByKey(),
    rows=(2, 8),
)


def conformed(table: pd.DataFrame, dataset: Dataset) -> pd.DataFrame:
    """As Great Expectations judges each value: a number as one, also among texts, and what is odd as an object."""
    columns = {}
    for name in table.columns:
        values = table[name]
        if name in {c.name for c in dataset.columns if c.numeric} and values.dtype.kind != "i":
            numbers = pd.to_numeric(values, errors="coerce")
            whole = dataset[name].kind == "integer"
            judged = [
                None
                if pd.isna(value)
                else value
                if np.isnan(number)
                else int(number)
                if whole and number % 1 == 0
                else float(number)
                for value, number in zip(values, numbers, strict=True)
            ]
            values = pd.Series(judged, index=table.index, dtype=object)
        columns[name] = values
    found = pd.DataFrame(columns)
    if dataset.label.column in found:
        found[LABEL] = dataset.label.of(found)
    return found


def by_great_expectations(table: pd.DataFrame, dataset: Dataset) -> list[dict[str, Any]]:
    return validated(conformed(table, dataset), of_table(dataset))


def validated(
    table: pd.DataFrame, expectations: Sequence[Expectation], site: Path | None = None
) -> list[dict[str, Any]]:
    """The results of Great Expectations' own engine. site: an empty folder for its Data Docs."""
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    batch = context.data_sources.add_pandas("d").add_dataframe_asset("t").add_batch_definition_whole_dataframe("all")
    wanted = [ExpectationConfiguration(type=e.type, kwargs=dict(e.kwargs)) for e in expectations]
    suite = context.suites.add(gx.ExpectationSuite(name="s", expectations=wanted))
    definition = context.validation_definitions.add(gx.ValidationDefinition(name="v", data=batch, suite=suite))
    if site is not None:
        backend = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(site)}
        config = {"class_name": "SiteBuilder", "store_backend": backend}
        context.add_data_docs_site(site_name="site", site_config=config)
    run = definition.run(batch_parameters={"dataframe": table})
    if site is not None:
        context.build_data_docs(["site"])
    return [entry.to_json_dict() for entry in run.results]


def identified(kind: str, kwargs: dict[str, Any]) -> tuple[str, str]:
    return kind, str(kwargs.get("column", kwargs.get("column_list", "")))


def plain(value: Any) -> Any:
    """A value as it is compared: numbers are equal whatever their type, and examples whatever their order."""
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return sorted((plain(inner) for inner in value), key=str)
    return round(float(value), 9) if isinstance(value, int | float) else value


def assert_equal(ours: list[Judgement], theirs: list[dict[str, Any]]) -> None:
    found = {identified(e["expectation_config"]["type"], e["expectation_config"]["kwargs"]): e for e in theirs}
    assert len(found) == len(theirs) == len(ours)
    for one in ours:
        name = identified(one.expectation.type, dict(one.expectation.kwargs))
        success, other = found[name]["success"], found[name]["result"]
        assert (name, one.success) == (name, success)
        if one.expectation.type == "expect_column_values_to_be_in_type_list" and "observed_value" in other:
            continue  # of a column that has one type Great Expectations says which, and counts nothing
        many = other.get("unexpected_count", 0) > 20  # then the counts of what it shows are of more than it shows
        left_out = {"partial_unexpected_index_list", *({"partial_unexpected_counts"} if many else ())}
        for field in other.keys() - left_out:
            assert (name, field, plain(one.result[field])) == (name, field, plain(other[field]))


@pytest.mark.parametrize("name", NAMES)
def test_of_the_real_sets_both_say_the_same(tables, name):
    raw, dataset = tables(name).raw, datasets.get(name)
    ours = judge(pl.from_pandas(raw).lazy(), dataset, of_table(dataset))
    assert all(one.success for one in ours)
    assert_equal(ours, by_great_expectations(raw, dataset))


@pytest.mark.parametrize("name", NAMES)
def test_of_broken_variants_of_the_real_sets_both_say_the_same(tables, name):
    raw, dataset = tables(name).raw.head(5000).copy(), datasets.get(name)
    for index, column in enumerate(dataset.columns):
        if column.numeric:
            raw[column.name] = raw[column.name].astype(float)
            raw.loc[index : index + 30, column.name] = (column.high or 0) + 7.5 if index % 2 else np.nan
        else:
            raw.loc[index + 50 : index + 90, column.name] = "other" if index % 2 else None
    raw = pd.concat([raw, raw.tail(11)], ignore_index=True)
    ours = judge(pl.from_pandas(raw).lazy(), dataset, of_table(dataset))
    assert sum(not one.success for one in ours) > 8
    assert_equal(ours, by_great_expectations(raw, dataset))


cells = {
    "id": st.none() | st.sampled_from("xyz"),
    "whole": st.none() | st.integers(-4, 4),
    "number": st.none()
    | st.sampled_from([-0.0, 0.0, 0.5, 2.5, 2.75, -1e300, float("inf"), float("-inf"), float("nan")]),
    "kind": st.none() | st.sampled_from("abc"),
    "hit": st.none() | st.integers(0, 2),
}


@given(
    st.lists(st.fixed_dictionaries(cells), max_size=10),
    st.sampled_from([0.0, 0.25, 0.5]),
    st.sampled_from([(), ("id",)]),
    st.sampled_from([SMALL.label, Label("kind", kind="multiclass"), Label("number", kind="regression")]),
)
def test_of_any_small_table_both_say_the_same(rows, duplicates, key, label):
    columns = tuple(replace(column, feature=column.name != label.column) for column in SMALL.columns)
    dataset = replace(SMALL, duplicates=duplicates, key=key, columns=columns, label=label)
    types = {"id": pl.String, "whole": pl.Int64, "number": pl.Float64, "kind": pl.String, "hit": pl.Int64}
    table = pl.DataFrame(rows, schema=types)
    theirs = table.to_pandas().astype({"id": object, "kind": object})
    assert_equal(judge(table.lazy(), dataset, of_table(dataset)), by_great_expectations(theirs, dataset))


@given(st.lists(st.integers(0, 40), max_size=60), st.integers(2, 30), st.integers(1, 20))
def test_what_repeats_is_counted_whatever_fits_into_memory(values, kept, batch):
    keys = pl.LazyFrame({"k": values}, schema={"k": pl.Int64})
    identity = [pl.col("k")]
    hashes = KeyHashes(kept)
    all_of_them = keys.select(hash_of(identity)).collect().to_series().to_numpy()
    for start in range(0, len(values), batch):
        hashes.add(all_of_them[start : start + batch])
    found = repeated(keys, identity, hashes, kept)
    twice = [value for value in values if values.count(value) > 1]
    assert found.rows == len(twice)
    assert len(found.hashes) == len(set(twice))


def test_keys_of_one_hash_are_no_repetition(monkeypatch):
    """With hashes of three values nearly all keys collide; only those that are equal repeat."""
    monkeypatch.setattr(uniqueness, "hash_of", lambda identity: (identity[0] % 3).cast(pl.UInt64))
    keys, identity = pl.LazyFrame({"k": [1, 4, 7, 2, 5, 5]}), [pl.col("k")]
    hashes = KeyHashes()
    hashes.add((keys.collect()["k"] % 3).cast(pl.UInt64).to_numpy())
    assert repeated(keys, identity, hashes).rows == 2


def test_a_pass_reads_each_column_once(tmp_path, monkeypatch):
    """A table is asked for once where no key repeats, whatever is expected of it."""
    asked = []
    original = pl.LazyFrame.collect_batches
    monkeypatch.setattr(pl.LazyFrame, "collect_batches", lambda self, **how: asked.append(1) or original(self, **how))
    table = pl.DataFrame({"id": ["x", "y"], "whole": [9, 9], "number": [9.0, 9.0], "kind": ["q", "q"], "hit": [0, 1]})
    judged = judge(table.lazy(), SMALL, of_table(SMALL))
    assert sum(not one.success for one in judged) == 3
    assert asked == [1]
