"""Whether a table has the declared columns, each of its declared type."""

import pandas as pd

from mlops.data_quality.findings import Alert
from mlops.datasets.declaration import EVENT_TIME, Column, Dataset

_SHOWN = 3  # examples of wrong values in a message


def violations(table: pd.DataFrame, dataset: Dataset) -> list[Alert]:
    """One for each column that is missing or holds values of another type; `value` is the share of wrong values."""
    found = []
    for column in dataset.columns:
        if column.name not in table:
            found.append(Alert("schema", column.name, 1.0, 0.0, f"column {column.name!r} is missing"))
            continue
        values = table[column.name]
        wrong = values[_mistyped(column, values)]
        if len(wrong):
            shown = ", ".join(repr(str(value)) for value in wrong.drop_duplicates()[:_SHOWN])
            article = "an" if column.kind[0] in "ai" else "a"
            text = (
                f"column {column.name!r} is declared {article} {column.kind}: {len(wrong):,} of {len(values):,} values "
                f"are not, such as {shown}"
            )
            found.append(Alert("schema", column.name, len(wrong) / len(values), 0.0, text))
    return found + _timeless(table, dataset, {alert.column for alert in found})


def _mistyped(column: Column, values: pd.Series) -> pd.Series:
    """True for each value that is there and cannot be read as the column's type."""
    if not column.numeric:
        return values.notna() & ~values.map(lambda value: isinstance(value, str))
    numbers = pd.to_numeric(values, errors="coerce")
    wrong: pd.Series = values.notna() & numbers.isna()
    if column.kind == "integer":
        wrong |= numbers.notna() & (numbers % 1 != 0)
    return wrong


def _timeless(table: pd.DataFrame, dataset: Dataset, explained: set[str]) -> list[Alert]:
    """Rows without an event time, unless the column that the time is read from is already named."""
    if dataset.event_time is None or explained & {getattr(dataset.event_time, "column", "")}:
        return []
    times = table.get(EVENT_TIME)
    missing = len(table) if times is None else int(times.isna().sum())
    if not missing:
        return []
    text = f"{missing:,} of {len(table):,} rows have no event time"
    return [Alert("schema", EVENT_TIME, missing / len(table), 0.0, text)]
