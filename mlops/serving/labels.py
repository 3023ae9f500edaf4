"""Labels that came later, joined to what was predicted, and how well each version has done by them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from math import isfinite
from typing import TYPE_CHECKING, NamedTuple

from mlops.datasets.declaration import EVENT_TIME, LABEL, Dataset
from mlops.models import metrics

if TYPE_CHECKING:
    import polars as pl

# Of a label of several classes the log has no probability but that of the class that was predicted.
_OF_ANSWERS = {"accuracy", "f1", "f1_macro"}


class Version(NamedTuple):
    """How a version has done. predictions: that were logged; labelled: those with a label; measured: by metric."""

    predictions: int
    labelled: int
    measured: dict[str, float]


def join(predictions: pl.LazyFrame, labels: pl.LazyFrame, keys: Sequence[str], within: timedelta) -> pl.LazyFrame:
    """The predictions, each with the first label of its keys from its time on: `label`, and its time `label_time`.

    Both are null where none came within that time. labels: the keys, `event_time`, UTC where it says no zone, and
    `label`; one without a time or a label is none.
    """
    import polars as pl

    from mlops.features.split import as_text

    types = labels.collect_schema()
    texts = (as_text(pl.col(key), types[key]).alias(key) for key in keys)
    known = (
        labels.select(*texts, pl.col(EVENT_TIME).cast(pl.Datetime("us", "UTC")), LABEL)
        .filter(pl.col(EVENT_TIME).is_not_null() & pl.col(LABEL).is_not_null())
        .with_columns(pl.col(EVENT_TIME).alias("label_time"))
        .sort(EVENT_TIME)
    )
    joined = predictions.sort("time").join_asof(
        known,
        left_on="time",
        right_on=EVENT_TIME,
        by=list(keys),
        strategy="forward",
        tolerance=within,
        check_sortedness=False,
    )
    return joined.drop(EVENT_TIME, strict=False)


def versions(joined: pl.DataFrame, dataset: Dataset) -> dict[str, Version]:
    """By version how well it has done, on the predictions that have a label. joined: as `join` makes it."""
    import polars as pl

    found = {}
    for (version,), rows in joined.group_by("version", maintain_order=True):
        labelled = rows.filter(pl.col(LABEL).is_not_null())
        measured = _measured(labelled, dataset) if labelled.height else {}
        found[str(version)] = Version(rows.height, labelled.height, measured)
    return dict(sorted(found.items()))


def _measured(rows: pl.DataFrame, dataset: Dataset) -> dict[str, float]:
    """The metrics of the label's kind that the log allows, those that are defined."""
    import numpy as np
    import polars as pl

    from mlops.training.families import Prediction
    from mlops.training.measures import Answers, Rows, classes_of, measure

    kind, score = dataset.label.kind, rows["score"].to_numpy()
    truth = Rows.of(rows[LABEL].to_pandas(), dataset)
    wanted = metrics.of_kind(kind)
    if kind == "regression":
        prediction = Prediction(score)
    elif kind == "binary":
        said = rows["prediction"].cast(pl.Int64).to_numpy()
        prediction = Prediction(said, np.array([0, 1]), np.column_stack([1 - score, score]))
    else:
        classes = np.array(classes_of(dataset))
        said = rows["prediction"].to_numpy()
        prediction = Prediction(said, classes, (said[:, None] == classes) * score[:, None])
        wanted = tuple(metric for metric in wanted if metric.name in _OF_ANSWERS)
    answers = Answers.of(prediction, truth)
    values = {metric.name: measure(metric)(truth, answers) for metric in wanted}
    return {name: value for name, value in values.items() if isfinite(value)}
