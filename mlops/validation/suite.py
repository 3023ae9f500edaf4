"""The expectations that follow from a dataset's declaration."""

import great_expectations as gx
import great_expectations.expectations as gxe
import numpy as np
import pandas as pd
from great_expectations.expectations.expectation import Expectation

from mlops.datasets.declaration import LABEL, Column, Dataset

_TYPES = {
    "integer": ["int64", "int"],
    "number": ["float64", "int64", "float", "int"],
    "category": ["str"],
    "identifier": ["str"],
}


def suite(dataset: Dataset) -> gx.ExpectationSuite:
    """Presence, type, nulls, range and values of each column; number of rows; repeated rows; both classes."""
    least, most = dataset.rows
    expectations: list[Expectation] = [
        gxe.ExpectTableRowCountToBeBetween(min_value=least, max_value=most),
        *(expectation for column in dataset.columns for expectation in _of_column(column)),
        gxe.ExpectColumnDistinctValuesToContainSet(column=LABEL, value_set=[0, 1]),
    ]
    if dataset.duplicates is not None:
        unique = gxe.ExpectCompoundColumnsToBeUnique(column_list=dataset.row_key, mostly=1 - dataset.duplicates)
        expectations.append(unique)
    return gx.ExpectationSuite(name=dataset.name, expectations=expectations)


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
    name = column.name
    expectations: list[Expectation] = [
        gxe.ExpectColumnToExist(column=name),
        gxe.ExpectColumnValuesToBeInTypeList(column=name, type_list=_TYPES[column.kind]),
    ]
    if not column.nullable:
        expectations.append(gxe.ExpectColumnValuesToNotBeNull(column=name))
    if column.low is not None or column.high is not None:
        expectations.append(gxe.ExpectColumnValuesToBeBetween(column=name, min_value=column.low, max_value=column.high))
    if column.values:
        expectations.append(gxe.ExpectColumnValuesToBeInSet(column=name, value_set=list(column.values)))
    return expectations


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
