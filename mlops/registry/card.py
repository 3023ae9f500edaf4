"""The card of a model (M. Mitchell et al., "Model cards for model reporting", FAT* 2019): what a person should know
before using it, in Markdown."""

from datetime import timedelta
from itertools import groupby

from mlops.datasets.declaration import Dataset, SplitByTime
from mlops.models.declaration import Model
from mlops.registry.record import (
    DAG_ID,
    DAG_RUN_ID,
    DESCRIPTION,
    EVENT_TIME_SHIFT,
    FEATURE_SERVICE,
    SERVED_AGE,
    TEST,
    TRAIN,
    Record,
    period_tag,
)

FILE = "model_card.md"
_UNKNOWN = "-"


def card(model: Model, record: Record, *, limit: int | None = None) -> str:
    """The card of a run's model.

    limit: the most characters; a card that would be longer counts the features of each view instead of naming them,
    and is cut where that is not enough.
    """
    text = _card(model, record, named=True)
    if limit is None or len(text) <= limit:
        return text
    return _card(model, record, named=False)[:limit]


def _card(model: Model, record: Record, *, named: bool) -> str:
    dataset = model.data
    sections = {
        f"# {model.name}": f"{model.description}\n\n{_origin(record)}",
        "## Data": _data(dataset, record),
        "## Features": _features(dataset, record, named=named),
        "## Quality": _quality(record),
        "## Intended use": _use(dataset, record),
        "## Limits": _limits(dataset),
    }
    return "\n".join(f"{title}\n\n{text}\n" for title, text in sections.items())


def _origin(record: Record) -> str:
    made_by = [
        f"MLflow run `{record.run_id}`",
        f"DAG `{record.tags.get(DAG_ID, _UNKNOWN)}`, run `{record.tags.get(DAG_RUN_ID, _UNKNOWN)}`",
        f"code version `{record.params.get('code_version', _UNKNOWN)}`",
    ]
    return f"{record.tags.get(DESCRIPTION, 'A model')}, from {'; '.join(made_by)}."


def _data(dataset: Dataset, record: Record) -> str:
    rows = [
        "| | rows | positive | events |",
        "|---|---:|---:|---|",
        *(_part(record, name, part) for name, part in (("training set", TRAIN), ("test set", TEST))),
    ]
    lines = [
        f"`{dataset.name}`: {dataset.description} Positive: {dataset.label.rule}.",
        f"Version of its files: `{record.params.get('data_version', _UNKNOWN)}`.",
        "\n" + "\n".join(rows) + "\n",
        f"The test set is the latest {dataset.split.test_fraction:.0%} of the rows."
        if isinstance(dataset.split, SplitByTime)
        else f"The test set is {dataset.split.test_fraction:.0%} of the rows, drawn at random within each class.",
    ]
    shift = float(record.tags.get(EVENT_TIME_SHIFT, 0))
    if shift:
        lines.append(
            f"Event times are shifted by {shift:.0f} s ({timedelta(seconds=shift).days} days) from those of the files; "
            "the gaps between them are as they were."
        )
    return "\n".join(lines)


def _part(record: Record, name: str, part: str) -> str:
    counts = {
        key: record.metrics.get(f"{part}_{key}", 0.0)
        for key in ("true_positives", "false_negatives", "true_negatives", "false_positives")
    }
    rows, positives = sum(counts.values()), counts["true_positives"] + counts["false_negatives"]
    share = f"{positives / rows:.2%}" if rows else _UNKNOWN
    period = record.tags.get(period_tag(part), _UNKNOWN).replace("/", " to ")
    return f"| {name} | {rows:,.0f} | {share} | {period} |"


def _features(dataset: Dataset, record: Record, *, named: bool) -> str:
    if not record.feature_schema:
        columns = ", ".join(f"`{column.name}`" for column in dataset.features)
        return f"{len(dataset.features)} columns of the data set itself: {columns}."
    age = record.tags.get(SERVED_AGE)
    known = f"at the age at which it is served: {age}." if age else "as it was known at the moment of the row's event."
    lines = [
        f"Feature service `{record.tags.get(FEATURE_SERVICE, _UNKNOWN)}`: {len(record.feature_schema)} features, each",
        known,
        "",
    ]
    pairs = sorted((*reference.split(":", 1), dtype) for reference, dtype in record.feature_schema.items())
    for view, group in groupby(pairs, key=lambda pair: pair[0]):
        features = list(group)
        listed = ", ".join(f"`{name}` {dtype}" for _, name, dtype in features)
        lines.append(f"- `{view}`: {listed}" if named else f"- `{view}`: {len(features)} features, named in `{FILE}`")
    return "\n".join(lines)


def _quality(record: Record) -> str:
    def shown(name: str) -> str:
        value = record.metrics.get(f"{TEST}_{name}")
        return _UNKNOWN if value is None else f"{value:.4f}"

    thresholds = record.thresholds
    confidence = f"{100 * thresholds['confidence']:g} %" if "confidence" in thresholds else "stated"
    rows = [
        "| on the test set | model | always the larger class |",
        "|---|---:|---:|",
        f"| accuracy | {shown('accuracy')} | {shown('baseline_accuracy')} |",
        f"| F1 | {shown('f1')} | {shown('baseline_f1')} |",
        f"| AUC | {shown('auc')} | 0.5000 |",
    ]
    lines = [
        "\n".join(rows),
        "",
        f"Accuracy gained over always guessing the larger class: {shown('gain')}, with {confidence} confidence",
        f"between {shown('gain_lower')} and {shown('gain_upper')} (paired by row: Bonett and Price, 2012).",
    ]
    if thresholds:
        lines.append(
            f"The gate asked for accuracy above {thresholds['accuracy']:g}, F1 above {thresholds['f1']:g}, and that "
            f"the whole interval lies above {thresholds['required_gain']:.4f}."
        )
    return "\n".join(lines)


def _use(dataset: Dataset, record: Record) -> str:
    served = record.tags.get(FEATURE_SERVICE)
    source = f"features read from the feature service `{served}`" if served else "the columns named above"
    return (
        f"To estimate, from {source}, how probable `{dataset.label.rule}` is for a new row of the same kind of data. "
        "The alias `staging` means that it passed the gate, not that anybody looked at it: read this card before "
        "giving it the alias `production`."
    )


def _limits(dataset: Dataset) -> str:
    unknown = f" Of a `{dataset.entity}` that it has not met it knows what the features say." if dataset.entity else ""
    return f"""\
- It knows the data above and no other: where the data drifts, these scores no longer hold. `data_validation_pipeline`
  watches for that.{unknown}
- The interval takes the rows as independent. Rows that follow one another closely, or are about the same thing, are
  not quite so: the true interval may be wider.
- Its probabilities have not been calibrated; a prediction cuts them at one half.
- Nobody has checked that it treats groups of people alike: it must not decide about a person by itself."""
