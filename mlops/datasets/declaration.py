"""The words in which a dataset is declared: columns, label, event time, split, and the files it comes in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

LABEL = "label"  # the column of 0 and 1 that preprocessing adds
EVENT_TIME = "event_time"  # the column of UTC times that reading adds

MOST_LEVELS = 255  # values of a category: what scikit-learn's trees split on
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
        if len(self.levels) > MOST_LEVELS or len(set(self.values)) != len(self.values):
            raise ValueError(
                f"column {self.name}: a category has at most {MOST_LEVELS} different values, its fill among them: "
                "declare an identifier, which may have any number of them"
            )
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

    @property
    def expression(self) -> pl.Expr:
        """`label`, Int64: 1 where the rule holds, 0 where not, null where the column is missing or not comparable."""
        import polars as pl

        column = pl.col(self.column)
        if isinstance(self.equals, str):
            holds = column.cast(pl.String) == self.equals
        else:
            number = column.cast(pl.Float64, strict=False)
            holds = number == self.equals if self.at_least is None else number >= self.at_least
        return holds.cast(pl.Int64).alias(LABEL)

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
    """Event time is a column of seconds since 1970, UTC."""

    column: str


@dataclass(frozen=True)
class EpochMilliseconds:
    """Event time is a column of milliseconds since 1970, UTC."""

    column: str


@dataclass(frozen=True)
class Timestamp:
    """Event time is a column of times that people can read, or of Parquet's timestamps or dates.

    format: of texts, in the signs of strftime; None for ISO 8601, `2026-01-31`, `2026-01-31 08:30` or
        `2026-01-31T08:30:00.5+02:00`.
    zone: of times that name none, such as `UTC` or `Europe/Berlin`; None where each names its own. An hour that
        daylight saving repeats or leaves out is no time.
    """

    column: str
    zone: str | None = None
    format: str | None = None


@dataclass(frozen=True)
class Clock:
    """The rows lie in order of time but carry no time: the first is given `start`, each next one `every` later."""

    start: datetime
    every: timedelta


EventTime = EpochSeconds | EpochMilliseconds | Timestamp | Clock


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
    """A second file whose columns are added to each row of the first by the column `on`, its name after `rename`."""

    file: str
    on: str


@dataclass(frozen=True)
class Source:
    """The files of a dataset, below `datasets/<name>/` in the data bucket.

    file: one, or several of the same columns: their names, or patterns. `*` stands for any part of a name, `**` for
        any folders, and `readings/` for all that is below it. A folder `day=2026-01-31` is a column `day`.
    rename: raw name -> name of a column, in any of the files.
    missing: texts that stand for a missing value, beside the empty one, `nan` and `NULL`. One that is among the values
        of a category is that value.
    constants: columns to add that the files leave unsaid.

    How a file is packed is seen in it: gzip, bzip2, xz, zstd, or zip with one file in it. What follows is of texts:

    separator: between values; None for the comma of csv and the tab of tsv.
    decimal, thousands: the signs in numbers, `1.234,5` having decimal="," and thousands=".".
    quote: around values that hold a separator; empty where quotes mean nothing.
    encoding: by Python's name. A byte order mark of UTF-8 is passed over.
    names: of the columns, for a file that has no header.
    skip_rows, skip_last: lines above the header (or the first row), and at the end, that are no part of the table.
    trailing_separator: whether rows end with a separator that the header does not have.
    trim: whether blanks around names and values are no part of them.
    """

    file: str | tuple[str, ...]
    format: Literal["csv", "tsv", "parquet"]
    joins: tuple[Join, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    constants: Mapping[str, str] = field(default_factory=dict)
    separator: str | None = None
    decimal: Literal[".", ","] = "."
    thousands: str = ""
    quote: str = '"'
    encoding: str = "utf-8"
    names: tuple[str, ...] = ()
    skip_rows: int = 0
    skip_last: int = 0
    trailing_separator: bool = False
    trim: bool = False

    def __post_init__(self) -> None:
        signs = [self.decimal, self.thousands, self.quote, self.delimiter]
        if any(len(sign) > 1 for sign in signs) or self.separator == "":
            raise ValueError("source: separator, decimal, thousands and quote are one character each")
        if self.thousands == self.decimal or self.quote == self.delimiter:
            raise ValueError("source: decimal and thousands differ, and quote and separator do")
        if len(set(self.names)) != len(self.names):
            raise ValueError("source: two of its names are the same")

    @property
    def delimiter(self) -> str:
        return self.separator or {"tsv": "\t"}.get(self.format, ",")

    @property
    def parts(self) -> tuple[str, ...]:
        """The names or patterns of the files whose rows are the table's."""
        return (self.file,) if isinstance(self.file, str) else self.file

    @property
    def files(self) -> tuple[str, ...]:
        return (*self.parts, *(join.file for join in self.joins))


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
    event_time: EventTime | None = None
    key: tuple[str, ...] = ()
    duplicates: float | None = 0.0
    cadence: timedelta | None = timedelta(days=1)

    def __post_init__(self) -> None:
        names = [column.name for column in self.columns]
        required = [self.label.column, *self.key, *([self.entity] if self.entity else [])]
        if self.event_time is not None and not isinstance(self.event_time, Clock):
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
