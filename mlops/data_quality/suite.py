"""All that a dataset's declaration expects of a whole table."""

import great_expectations.expectations as gxe
import numpy as np
import pandas as pd
from great_expectations.expectations.expectation import Expectation

from mlops.data_quality.expectations import of_rows, of_values
from mlops.datasets.declaration import LABEL, Column, Dataset

_TYPES = {
    "integer": ["int64", "int"],
    "number": ["float64", "int64", "float", "int"],
    "category": ["str"],
    "identifier": ["str"],
}


def suite(dataset: Dataset) -> list[Expectation]:
    """Presence, type, nulls, range and values of each column; number of rows; repeated rows; both classes."""
    least, most = dataset.rows
    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=least, max_value=most),
        *(expectation for column in dataset.columns for expectation in _of_column(column)),
        gxe.ExpectColumnDistinctValuesToContainSet(column=LABEL, value_set=[0, 1]),
        *of_rows(dataset),
    ]


def conform(table: pd.DataFrame, dataset: Dataset) -> pd.DataFrame:
    """The table as the suite reads it: with `label`, and with odd columns as objects, so that each value is judged.

    One text among the numbers of a CSV turns its whole column into text, and one missing value turns whole numbers
    into fractions. Here every value that can be read as its column's type is, and the others stay as they were.
    """
    columns = {name: table[name] for name in table.columns}
    for column in dataset.columns:
        if column.name in columns and not _has_declared_type(column, columns[column.name]):
            columns[column.name] = _judged(column, columns[column.name])
    conformed = pd.DataFrame(columns)
    if dataset.label.column in conformed:
        conformed[LABEL] = dataset.label.of(conformed)
    return conformed


def _of_column(column: Column) -> list[Expectation]:
    return [
        gxe.ExpectColumnToExist(column=column.name),
        gxe.ExpectColumnValuesToBeInTypeList(column=column.name, type_list=_TYPES[column.kind]),
        *of_values(column),
    ]


def _has_declared_type(column: Column, values: pd.Series) -> bool:
    if column.kind == "integer":
        return bool(values.dtype == np.int64)
    if column.kind == "number":
        return bool(values.dtype in (np.int64, np.float64))
    return False


def _judged(column: Column, values: pd.Series) -> pd.Series:
    """The values as Python objects: numbers where they can be read as such, None where missing, else unchanged."""
    if not column.numeric:
        return values.astype(object)
    numbers = pd.to_numeric(values, errors="coerce")
    judged = [
        None if missing else value if np.isnan(number) else int(number) if _is_whole(number) else float(number)
        for value, number, missing in zip(values, numbers, values.isna(), strict=True)
    ]
    return pd.Series(judged, index=values.index, dtype=object)


def _is_whole(number: float) -> bool:
    return bool(np.isfinite(number)) and float(number).is_integer()
