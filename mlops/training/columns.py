"""The columns of a training or test set, and how the model is to treat each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlops.datasets.declaration import EVENT_TIME, GROUP, LABEL, Column, Dataset
from mlops.result import Refused
from mlops.stores.tracking import Input, Signature

if TYPE_CHECKING:
    import pandas as pd

_NUMBERS = "biuf"  # kinds of NumPy types: truth values, integers with and without sign, floating point
_TIMES = "mM"


def features_of(table: pd.DataFrame, dataset: Dataset) -> pd.DataFrame:
    """The columns that the model sees, numbers as float64 and all else as text or None; all rows of `table`.

    These are all columns of the table but `label`, `event_time`, `split_group` and those that the dataset declares not
    to be features. Values are as they came: the model itself replaces a missing one by what `fill` says.
    Raises Refused for a column that is of another kind than declared.
    """
    withheld = {LABEL, EVENT_TIME, GROUP, *(column.name for column in dataset.columns if not column.feature)}
    chosen = table[[name for name in table if name not in withheld]]
    columns = {column.name: column for column in columns_of(chosen, dataset)}
    return chosen.apply(lambda values: _typed(values, columns[str(values.name)], dataset))


def columns_of(features: pd.DataFrame, dataset: Dataset) -> tuple[Column, ...]:
    """Each column as the dataset declares it, or, where a feature view brought it, by its type.

    Of such a column, a number or a truth value is a number, which may be missing, and anything else an identifier.
    Raises Refused for a time, which no model here can read.
    """
    declared = {column.name: column for column in dataset.features}
    return tuple(declared.get(name) or _by_type(name, features[name], dataset) for name in map(str, features))


def filled(features: pd.DataFrame, dataset: Dataset) -> pd.DataFrame:
    """The features with what `fill` says in the place of missing values: what models of before 0.2 were trained on."""
    fills = {column.name: column.fill for column in columns_of(features, dataset) if column.fill is not None}
    return features.fillna(fills) if fills else features


def signature_of(features: pd.DataFrame, dataset: Dataset) -> Signature:
    """What a model of these features reads and answers, as the dataset declares them and not as some rows have it.

    Derived columns are none of what it reads: it computes them.
    """
    derived = {each.name for each in dataset.derived}
    read = [column for column in columns_of(features, dataset) if column.name not in derived]
    inputs = [Input(column.name, column.numeric, column.nullable) for column in read]
    return Signature(inputs, {"binary": "long", "multiclass": "string", "regression": "double"}[dataset.label.kind])


def _by_type(name: str, values: pd.Series, dataset: Dataset) -> Column:
    if values.dtype.kind in _TIMES:
        raise Refused(
            f"dataset {dataset.name}: column {name} holds times, which the model cannot read: "
            "make it seconds before the event, or take it out of the feature service"
        )
    return Column(name, "number" if values.dtype.kind in _NUMBERS else "identifier", nullable=True)


def _typed(values: pd.Series, column: Column, dataset: Dataset) -> pd.Series:
    if column.numeric:
        try:
            return values.astype("float64")
        except (TypeError, ValueError) as error:
            raise Refused(
                f"dataset {dataset.name}: column {column.name} is declared as {column.kind} and is none ({error}): "
                f"correct the data, or the declaration of dataset {dataset.name}"
            ) from error
    text = values.astype(object)
    text[text.isna()] = None
    return text
