"""The words in which a dataset is declared: columns, label, event time, split, and the files it comes in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pandas as pd

LABEL = "label"  # the column of 0 and 1 that preprocessing adds
EVENT_TIME = "event_time"  # the column of UTC times that reading adds

Kind = Literal["integer", "number", "category", "identifier"]


@dataclass(frozen=True)
class Column:
    """A column of the raw table.

    kind: integer and number are ordered and may have `low` and `high` (both allowed); a category takes one of
        `values`; an identifier is any text, with too many values to list.
    nullable: whether values may be missing; `fill` is what preprocessing writes instead, and without a `fill` they
        stay missing, which the model can handle.
    feature: whether the model sees the column.
    """

    name: str
    kind: Kind
    low: float | None = None
    high: float | None = None
    values: tuple[str, ...] = ()
    nullable: bool = False
    fill: str | float | None = None
    feature: bool = True

    def __post_init__(self) -> None:
        if (self.kind == "category") != bool(self.values):
            raise ValueError(f"column {self.name}: a category has values, and nothing else has")
        if self.kind in ("category", "identifier") and (self.low is not None or self.high is not None):
            raise ValueError(f"column {self.name}: only an integer or a number has low and high")
        if self.fill is not None and not self.nullable:
            raise ValueError(f"column {self.name}: fill needs nullable=True")

    @property
    def numeric(self) -> bool:
        return self.kind in ("integer", "number")

    @property
    def levels(self) -> tuple[str, ...]:
        """The values of a category after preprocessing."""
        filled = () if self.fill is None or self.fill in self.values else (str(self.fill),)
        return self.values + filled


@dataclass(frozen=True)
class Label:
    """What is to be predicted: whether `column` equals a value, or is at least one."""

    column: str
    equals: str | int | None = None
    at_least: float | None = None

    def __post_init__(self) -> None:
        if (self.equals is None) == (self.at_least is None):
            raise ValueError(f"label {self.column}: declare either equals or at_least")

    @property
    def rule(self) -> str:
        return f"{self.column} = {self.equals}" if self.at_least is None else f"{self.column} >= {self.at_least:g}"

    def of(self, table: pd.DataFrame) -> pd.Series:
        """1 where the rule holds, 0 where not, missing where the column is missing or not comparable; Int64."""
        import pandas as pd

        column = table[self.column]
        if isinstance(self.equals, str):
            positive, known = column == self.equals, column.notna()
        else:
            numbers = pd.to_numeric(column, errors="coerce")
            positive = numbers == self.equals if self.at_least is None else numbers >= self.at_least
            known = numbers.notna()
        return positive.astype("Int64").mask(~known).rename(LABEL)


@dataclass(frozen=True)
class EpochSeconds:
    """Event time is a column of whole seconds since 1970, UTC."""

    column: str


@dataclass(frozen=True)
class Clock:
    """The rows lie in order of time but carry no time: the first is given `start`, each next one `every` later."""

    start: datetime
    every: timedelta


@dataclass(frozen=True)
class SplitByTime:
    """The test set is the latest part: what a model meets after it was trained."""

    test_fraction: float = 0.2


@dataclass(frozen=True)
class SplitStratified:
    """The test set is drawn at random, with the label's shares kept: for rows that have no time."""

    test_fraction: float = 0.2
    seed: int = 7


@dataclass(frozen=True)
class Join:
    """A second file whose columns are added to each row of the first by the column `on`."""

    file: str
    on: str


@dataclass(frozen=True)
class Source:
    """The files of a dataset, below `datasets/<name>/` in the data bucket.

    rename: raw name -> name of a column, in any of the files.
    missing: texts that stand for a missing value, beside the empty one.
    constants: columns to add that the files leave unsaid.
    """

    file: str
    format: Literal["csv", "tsv", "parquet"]
    joins: tuple[Join, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    constants: Mapping[str, str] = field(default_factory=dict)

    @property
    def files(self) -> tuple[str, ...]:
        return (self.file, *(join.file for join in self.joins))


@dataclass(frozen=True)
class Dataset:
    """All that the platform knows of a dataset.

    entity: the column that names the thing the rows are about; None where each row is a thing of its own.
    key: the columns that no two rows share; empty means all columns.
    duplicates: the share of rows that may break this before validation stops the run; preprocessing drops them. None:
        rows may repeat, and all are kept.
    rows: the least and the most rows that make sense.
    cadence: how often rows are added to a set with event times, at least: the newest may be twice as old. None: nothing
        is added to it.
    """

    name: str
    description: str
    source: Source
    columns: tuple[Column, ...]
    label: Label
    split: SplitByTime | SplitStratified
    rows: tuple[int, int]
    entity: str | None = None
    event_time: EpochSeconds | Clock | None = None
    key: tuple[str, ...] = ()
    duplicates: float | None = 0.0
    cadence: timedelta | None = timedelta(days=1)

    def __post_init__(self) -> None:
        names = [column.name for column in self.columns]
        required = [self.label.column, *self.key, *([self.entity] if self.entity else [])]
        if isinstance(self.event_time, EpochSeconds):
            required.append(self.event_time.column)
        unknown = sorted(set(required) - set(names))
        if unknown or len(set(names)) != len(names) or {LABEL, EVENT_TIME} & set(names):
            raise ValueError(
                f"dataset {self.name}: each column is declared once, {LABEL} and {EVENT_TIME} are added and not "
                f"declared, and label, key, entity and event time name declared columns (unknown: {unknown})"
            )
        if self[self.label.column].feature:
            raise ValueError(f"dataset {self.name}: column {self.label.column} is the label: declare feature=False")
        if isinstance(self.split, SplitByTime) and self.event_time is None:
            raise ValueError(f"dataset {self.name}: a split by time needs an event time")

    def __getitem__(self, name: str) -> Column:
        return next(column for column in self.columns if column.name == name)

    @property
    def features(self) -> tuple[Column, ...]:
        """The columns that the model sees, in declared order."""
        return tuple(column for column in self.columns if column.feature)

    @property
    def row_key(self) -> list[str]:
        """The columns that no two rows share."""
        return list(self.key) or [column.name for column in self.columns]

    def object_key(self, file: str) -> str:
        """Where a file of the dataset lies in the data bucket."""
        return f"datasets/{self.name}/{file}"
