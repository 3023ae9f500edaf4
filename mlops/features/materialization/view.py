"""What materialization needs to know of a feature view, in plain words and without Feast's objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from mlops.result import Refused

if TYPE_CHECKING:
    from feast import FeatureView

KEY_KINDS = ("BYTES", "STRING", "INT32", "INT64")
VALUE_KINDS = (*KEY_KINDS, "FLOAT", "DOUBLE", "BOOL", "UNIX_TIMESTAMP")


@dataclass(frozen=True)
class Field:
    """A column; kind: the name of Feast's ValueType."""

    name: str
    kind: str


@dataclass(frozen=True)
class MaterializedView:
    """A feature view.

    join_keys: the columns that name the entity, in order of their names, as Feast's key has them.
    features: the columns to serve. timestamp, created: the columns of event time and of the time a row was written,
        which tells apart rows of one event; None where the source has no such column.
    bucket, prefix: where its Parquet files lie. dataset: which set it is computed from, None where it does not say.
    """

    name: str
    project: str
    join_keys: tuple[Field, ...]
    features: tuple[Field, ...]
    timestamp: str
    created: str | None
    bucket: str
    prefix: str
    dataset: str | None = None

    def __post_init__(self) -> None:
        refused = [field for field in self.join_keys if field.kind not in KEY_KINDS]
        refused += [field for field in self.features if field.kind not in VALUE_KINDS]
        if refused:
            named = ", ".join(f"{field.name} ({field.kind})" for field in refused)
            raise Refused(
                f"feature view {self.name}: {named} cannot be materialized: a join key is one of "
                f"{', '.join(KEY_KINDS)}, a feature one of {', '.join(VALUE_KINDS)}; change its type in mlops/features"
            )

    @classmethod
    def of(cls, project: str, view: FeatureView) -> Self:
        """The feature view as the registry has it."""
        source: Any = view.batch_source  # of which every one that reads files has a path
        address = urlsplit(source.path)
        return cls(
            name=view.name,
            project=project,
            join_keys=tuple(sorted((_field(column) for column in view.entity_columns), key=lambda field: field.name)),
            features=tuple(_field(feature) for feature in view.features),
            timestamp=source.timestamp_field,
            created=source.created_timestamp_column or None,
            bucket=address.netloc,
            prefix=address.path.strip("/").removesuffix("/*.parquet") + "/",
            dataset=view.tags.get("dataset"),
        )

    @property
    def keys(self) -> list[str]:
        """The names of the join keys."""
        return [field.name for field in self.join_keys]

    @property
    def times(self) -> list[str]:
        """The columns of time, the one that counts first."""
        return [self.timestamp, *([self.created] if self.created else [])]

    @property
    def columns(self) -> list[str]:
        """The columns that are read."""
        return [*self.keys, *self.times, *(field.name for field in self.features)]


def _field(column: Any) -> Field:
    return Field(column.name, column.dtype.to_value_type().name)
