"""From a validated table to a clean one. Each row is handled by the declaration alone, whatever the other rows hold."""

import pandas as pd

from mlops.datasets.declaration import EVENT_TIME, LABEL, Column, Dataset


def preprocess(table: pd.DataFrame, dataset: Dataset) -> pd.DataFrame:
    """Rows in order of time, of repeated ones the latest, with declared types; what is missing stays missing.

    Adds the column `label` (0 or 1, a class, or a number) and drops the rows that have none. Columns: the declared
    ones, `event_time` where the dataset has one, `label`.
    """
    ordered = table.sort_values(EVENT_TIME, kind="stable") if EVENT_TIME in table else table
    if dataset.duplicates is not None:
        ordered = ordered.drop_duplicates(subset=dataset.row_key, keep="last")
    columns = {column.name: _typed(ordered[column.name], column) for column in dataset.columns}
    if EVENT_TIME in ordered:
        columns[EVENT_TIME] = ordered[EVENT_TIME]
    columns[LABEL] = dataset.label.of(ordered)
    clean = pd.DataFrame(columns).dropna(subset=[LABEL])
    dtype = {"binary": "int64", "multiclass": "object", "regression": "float64"}[dataset.label.kind]
    return clean.astype({LABEL: dtype}).reset_index(drop=True)


def _typed(values: pd.Series, column: Column) -> pd.Series:
    """Numbers as float64, which has a missing value; everything else as text or None."""
    return values.astype("float64") if column.numeric else values.astype(object)
