"""The words in which a dataset is declared: columns, label, event time, split, and the files it comes in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

LABEL = "label"  # the column that preprocessing adds: 0 or 1, a class, or a number
EVENT_TIME = "event_time"  # the column of UTC times that reading adds
FUTURE = timedelta(hours=1)  # that a sender's clock may be ahead; what lies beyond is no event that has been
GROUP = "split_group"  # the column that the split adds where rows belong together: the same number for those that do

MOST_LEVELS = 255  # values of a category: what scikit-learn's trees split on
Kind = Literal["integer", "number", "category", "identifier"]
LabelKind = Literal["binary", "multiclass", "regression"]
Operation = Literal["sum", "difference", "product", "ratio"]


@dataclass(frozen=True)
class Column:
    """A column of the raw table.

    kind: integer and number are ordered and may have `low` and `high` (both allowed); a category takes one of
        `values`; an identifier is any text, with too many values to list.
    nullable: whether values may be missing; `fill` is what the model reads instead, in training and when it is served,
        and without a `fill` they stay missing, which the model can handle.
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
        """The values of a category as the model reads it."""
        filled = () if self.fill is None or self.fill in self.values else (str(self.fill),)
        return self.values + filled


@dataclass(frozen=True)
class Label:
    """What is to be predicted, of the column `column`.

    kind: binary, whether the value equals `equals` or is at least `at_least`, one of which is given; multiclass, which
    of its values a category has; regression, the number that an integer or a number is.
    """

    column: str
    equals: str | int | None = None
    at_least: float | None = None
    kind: LabelKind = "binary"

    def __post_init__(self) -> None:
        if self.kind not in get_args(LabelKind):
            raise ValueError(f"label {self.column}: kind {self.kind!r} is none of {', '.join(get_args(LabelKind))}")
        rules = (self.equals is not None) + (self.at_least is not None)
        if rules != (self.kind == "binary"):
            wanted = "either equals or at_least" if self.kind == "binary" else "neither equals nor at_least"
            raise ValueError(f"label {self.column}: declare {wanted} for a {self.kind} label")

    @property
    def rule(self) -> str:
        """In words: of a binary label when it is 1, of another the column itself."""
        if self.kind != "binary":
            return self.column
        return f"{self.column} = {self.equals}" if self.at_least is None else f"{self.column} >= {self.at_least:g}"

    @property
    def expression(self) -> pl.Expr:
        """`label`: Int64 of 1 where the rule holds and 0 where not, String of the class, or Float64 of the number.

        Null where the column is missing, or is no number where one is compared.
        """
        import polars as pl

        column = pl.col(self.column)
        if self.kind == "multiclass":
            label = column.cast(pl.String)
        elif self.kind == "regression":
            label = _finite(column)
        elif isinstance(self.equals, str):
            label = (column.cast(pl.String) == self.equals).cast(pl.Int64)
        else:
            number = _finite(column)
            label = (number == self.equals if self.at_least is None else number >= self.at_least).cast(pl.Int64)
        return label.alias(LABEL)

    def of(self, table: pd.DataFrame) -> pd.Series:
        """`expression` of a pandas table, with its index: Int64, object, or Float64."""
        import pandas as pd
        import polars as pl

        values = table[self.column]
        plain = values.astype("Float64" if values.dtype.kind in "biuf" else "string")  # of mixed ones polars takes none
        label = pl.from_pandas(plain, nan_to_null=True).to_frame(self.column).select(self.expression).to_series()
        dtype = {"binary": "Int64", "multiclass": "object", "regression": "Float64"}[self.kind]
        made: pd.Series = pd.Series(label.to_list(), index=table.index, name=LABEL, dtype=dtype)
        return made


@dataclass(frozen=True)
class Derived:
    """A feature that is computed of two numbers of the same row, in this order.

    It is missing where one of the two is, and a ratio also where the second is 0. Models that learn from the data set's
    own columns see it, and compute it by themselves when they are served.
    """

    name: str
    operation: Operation
    of: tuple[str, str]

    @property
    def expression(self) -> pl.Expr:
        """Float64, named `name`."""
        import polars as pl

        first, second = (_finite(pl.col(name)) for name in self.of)
        match self.operation:
            case "sum":
                value = first + second
            case "difference":
                value = first - second
            case "product":
                value = first * second
            case "ratio":
                value = first / second
        return _finite(value).alias(self.name)


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
class SplitByKey:
    """The test set is drawn by a hash of the row's key, so that a row stays in its part however the set grows.

    by: the columns that rows which belong together have in common, and which are hashed instead: all rows of one value
        lie in the same part. Without them it is the dataset's entity, where it has one, or else the row's key.
    seed: another one draws another test set. A larger `test_fraction` keeps the rows of a smaller one.
    """

    test_fraction: float = 0.2
    by: tuple[str, ...] = ()
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
    split: SplitByTime | SplitByKey
    rows: tuple[int, int]
    entity: str | None = None
    event_time: EventTime | None = None
    key: tuple[str, ...] = ()
    duplicates: float | None = 0.0
    cadence: timedelta | None = timedelta(days=1)
    derived: tuple[Derived, ...] = ()

    def __post_init__(self) -> None:
        self._check_derived()
        names = [column.name for column in self.columns]
        required = [self.label.column, *self.key, *([self.entity] if self.entity else []), *self.groups]
        if self.event_time is not None and not isinstance(self.event_time, Clock):
            required.append(self.event_time.column)
        unknown = sorted(set(required) - set(names))
        if unknown or len(set(names)) != len(names) or {LABEL, EVENT_TIME, GROUP} & set(names):
            raise ValueError(
                f"dataset {self.name}: each column is declared once, {LABEL}, {EVENT_TIME} and {GROUP} are added and "
                "not declared, and label, key, entity, event time and what is split by name declared columns "
                f"(unknown: {unknown})"
            )
        if self[self.label.column].feature:
            raise ValueError(f"dataset {self.name}: column {self.label.column} is the label: declare feature=False")
        if isinstance(self.split, SplitByTime) and self.event_time is None:
            raise ValueError(f"dataset {self.name}: a split by time needs an event time")
        if not 0 < self.split.test_fraction < 1:
            raise ValueError(f"dataset {self.name}: a test set is a fraction between 0 and 1 of the rows")
        label = self[self.label.column]
        if self.label.kind == "multiclass" and len(label.values) < 3:
            raise ValueError(
                f"dataset {self.name}: the label {label.name} of kind multiclass must be a category of three or more "
                "values: one of two is binary, declare which of them `equals` 1"
            )
        if self.label.kind == "regression" and not label.numeric:
            raise ValueError(f"dataset {self.name}: the label {label.name} of kind regression must be a number")
        equals = self.label.equals
        if label.values and equals is not None and str(equals) not in label.values:
            raise ValueError(f"dataset {self.name}: the label {label.name} never equals {equals!r}, none of its values")

    def _check_derived(self) -> None:
        features = {column.name: column.numeric for column in self.features}
        for each in self.derived:
            if each.operation not in get_args(Operation):
                known = ", ".join(get_args(Operation))
                raise ValueError(f"dataset {self.name}: {each.name} is derived by {each.operation!r}, none of {known}")
            odd = [name for name in each.of if not features.get(name)]
            if odd or len(each.of) != 2:
                raise ValueError(
                    f"dataset {self.name}: {each.name} is derived of two columns that are features and numbers; "
                    f"{', '.join(odd) or len(each.of)} is not"
                )
        made = [each.name for each in self.derived]
        taken = {*(column.name for column in self.columns), LABEL, EVENT_TIME, GROUP}
        if len(set(made)) != len(made) or taken & set(made):
            raise ValueError(f"dataset {self.name}: each derived column has a name of its own: {', '.join(made)}")

    def __getitem__(self, name: str) -> Column:
        return next(column for column in self.columns if column.name == name)

    @property
    def features(self) -> tuple[Column, ...]:
        """The columns that the model sees, in declared order."""
        return tuple(column for column in self.columns if column.feature)

    @property
    def groups(self) -> tuple[str, ...]:
        """The columns whose values tell which rows belong together; empty where each row stands for itself."""
        if isinstance(self.split, SplitByTime):
            return ()
        return self.split.by or ((self.entity,) if self.entity else ())

    @property
    def split_rule(self) -> str:
        """Which rows are the test set, in words. Two splits of the same words put each row into the same part."""
        share = f"{self.split.test_fraction:.6g} of the rows"
        if isinstance(self.split, SplitByTime):
            return f"the latest {share}"
        return f"{share} by the hash of {', '.join(self.split_key)} (seed {self.split.seed})"

    @property
    def split_key(self) -> tuple[str, ...]:
        """The columns that a split by key hashes; none of a split by time.

        The label is none of them unless it is asked for: who corrects one moves no row.
        """
        if isinstance(self.split, SplitByTime):
            return ()
        whole = tuple(column.name for column in self.columns if column.name != self.label.column)
        return self.groups or self.key or whole

    @property
    def row_key(self) -> list[str]:
        """The columns that no two rows share."""
        return list(self.key) or [column.name for column in self.columns]

    def object_key(self, file: str) -> str:
        """Where a file of the dataset lies in the data bucket."""
        return f"datasets/{self.name}/{file}"


def _finite(column: pl.Expr) -> pl.Expr:
    """Float64; null for what is no finite number."""
    import polars as pl

    number = column.cast(pl.Float64, strict=False)
    return pl.when(number.is_finite()).then(number)
