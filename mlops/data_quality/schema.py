"""Whether a table has the declared columns, each of its declared type, and a time in each row."""

from __future__ import annotations

import polars as pl

from mlops.data_quality.checks import judge
from mlops.data_quality.expectations import of_presence, of_times
from mlops.data_quality.findings import Alert
from mlops.data_quality.validate import is_of_known_times, sentence
from mlops.datasets.declaration import Dataset


def violations(rows: pl.LazyFrame, dataset: Dataset) -> list[Alert]:
    """One for each column that is missing or holds values of another type; `value` is the share of wrong values.

    Rows without an event time are told of as well, unless the column that it is read from already is.
    """
    found: dict[str, Alert] = {}
    expectations = [expectation for column in dataset.columns for expectation in of_presence(column)]
    judgements = judge(rows, dataset, [*expectations, *of_times(dataset)])
    failed = [judgement for judgement in judgements if not judgement.success]
    for judgement in failed:
        (column,) = judgement.expectation.columns
        if column not in found and not is_of_known_times(judgement, failed, dataset):
            result = judgement.result
            share = result["unexpected_count"] / result["element_count"] if result else 1.0
            found[column] = Alert("schema", column, share, 0.0, sentence(judgement, dataset))
    return list(found.values())
