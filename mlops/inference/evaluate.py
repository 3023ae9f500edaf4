"""How a batch was scored: by its labels where it has them, and by the scores of the test set before it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from mlops.datasets.declaration import LABEL, Dataset
from mlops.drift.comparison import Comparison, compare
from mlops.drift.sketch import marks, sketch
from mlops.inference.batch import ROW
from mlops.inference.score import PREDICTION, PROBABILITY, slices
from mlops.models import metrics
from mlops.training.families import Prediction
from mlops.training.measures import Answers, Rows, classes_of, measure
from mlops.training.resampling import Interval, interval

if TYPE_CHECKING:
    from mlops.drift.columns import Scale

JUDGED = 50_000  # rows that metrics are of; drawn, where more are labelled, so that memory does not grow with them
CONFIDENCE = 0.95
LEVEL, EFFECT = 0.01, 0.1  # what the scores have to differ by, to be told of: see drift.comparison.compare
_SEED = 7


@dataclass(frozen=True)
class Judged:
    """rows: labelled ones that the metrics are of; metrics: by name, each with its interval; baseline: without one."""

    rows: int
    metrics: Mapping[str, Interval]
    baseline: Mapping[str, float]


def judge(clean: pl.LazyFrame, scores: pl.LazyFrame, dataset: Dataset, total: int) -> Judged | None:
    """None where no row has a label. clean, scores: of the same rows, with ROW; total: the rows of the delivery."""
    if dataset.label.column not in clean.collect_schema():
        return None
    labelled = _known(clean.select(ROW, dataset.label.expression), dataset)
    drawn = _drawn(total)
    chosen = labelled if drawn is None else labelled.filter(pl.col(ROW).is_in(drawn.implode()))
    found = chosen.join(scores, on=ROW, how="inner").collect(engine="streaming")
    if found.is_empty():
        return None
    rows = Rows.of(found[LABEL].to_pandas(), dataset)
    answers = Answers.of(_prediction(found, dataset), rows)
    names = metrics.of_kind(dataset.label.kind)
    baseline = Answers.baseline(rows)
    return Judged(
        len(found),
        {metric.name: interval(metric, rows, answers, CONFIDENCE) for metric in names},
        {metric.name: measure(metric)(rows, baseline) for metric in names},
    )


def drifted(sample: str | None, scores: pl.LazyFrame, rows: int, kind: str) -> Comparison | None:
    """The scores beside a sample of those of the test set, as training logged it; None where it logged none."""
    if sample is None:
        return None
    column, scale = score_column(kind)
    known = _series(json.loads(sample), column, scale)
    where = marks(known.to_frame(), {column: scale})
    batch = sketch(_scores(scores, rows, column, scale), where)
    (found,) = compare(sketch([known.to_frame()], where), batch, level=LEVEL, effect_threshold=EFFECT)
    return found


def histogram(scores: pl.LazyFrame, rows: int, kind: str) -> tuple[list[str], list[float]]:
    """Bins of the scores alone, and the share of the rows in each."""
    column, scale = score_column(kind)
    first = next(_scores(scores, rows, column, scale))
    counted = sketch(_scores(scores, rows, column, scale), marks(first, {column: scale}))
    (found,) = compare(counted, counted, level=LEVEL, effect_threshold=EFFECT)
    return list(found.labels), list(found.batch)


def score_column(kind: str) -> tuple[str, Scale]:
    """What is looked at of a model's answers: the probability of 1, the class, or the number."""
    if kind == "binary":
        return PROBABILITY, "number"
    return PREDICTION, "category" if kind == "multiclass" else "number"


def _scores(scores: pl.LazyFrame, rows: int, column: str, scale: Scale) -> Iterator[pl.DataFrame]:
    dtype = pl.Float64 if scale == "number" else pl.String
    return slices(scores.select(pl.col(column).cast(dtype)), 0, rows)


def _series(values: Sequence[Any], column: str, scale: Scale) -> pl.Series:
    return pl.Series(column, values, pl.Float64 if scale == "number" else pl.String)


def _known(rows: pl.LazyFrame, dataset: Dataset) -> pl.LazyFrame:
    """Those with a label that the declaration knows."""
    classes = classes_of(dataset)
    label = pl.col(LABEL)
    return rows.filter(label.is_in(list(classes)) if classes else label.is_not_null())


def _drawn(total: int) -> pl.Series | None:
    """The numbers of JUDGED rows; None where there are no more."""
    if total <= JUDGED:
        return None
    chosen = np.random.default_rng(_SEED).choice(total, JUDGED, replace=False, shuffle=False)
    return pl.Series(chosen.astype(np.uint32))


def _prediction(found: pl.DataFrame, dataset: Dataset) -> Prediction:
    values, classes = found[PREDICTION].to_numpy(), classes_of(dataset)
    if not classes:
        return Prediction(values)
    if dataset.label.kind == "binary":
        share = found[PROBABILITY].to_numpy()
        return Prediction(values, np.array(classes), np.column_stack([1 - share, share]))
    named = [name for name in map(str, classes) if f"{PROBABILITY}_{name}" in found]
    return Prediction(values, np.array(named), found.select(f"{PROBABILITY}_{name}" for name in named).to_numpy())
