"""The card of a model (M. Mitchell et al., "Model cards for model reporting", FAT* 2019): what a person should know
before using it, in Markdown."""

import json
from collections.abc import Mapping
from datetime import timedelta
from itertools import groupby

from mlops.datasets.declaration import Dataset, SplitByTime
from mlops.models import metrics
from mlops.models.declaration import Model
from mlops.models.metrics import shown
from mlops.registry.record import (
    CALIBRATION_ERROR,
    CHAMPION,
    DAG_ID,
    DAG_RUN_ID,
    DESCRIPTION,
    EVENT_TIME_SHIFT,
    FEATURE_SERVICE,
    METRIC,
    SERVED_AGE,
    TEST,
    TRAIN,
    Record,
    period_tag,
)

FILE = "model_card.md"
_UNKNOWN = "-"


def card(model: Model, record: Record, *, slices: str | None = None, limit: int | None = None) -> str:
    """The card of a run's model. slices: the file of that name of the run, where it has one.

    limit: the most characters; a card that would be longer counts the features of each view instead of naming them,
    and is cut where that is not enough.
    """
    text = _card(model, record, slices, named=True)
    if limit is None or len(text) <= limit:
        return text
    return _card(model, record, slices, named=False)[:limit]


def card_of_readings(name: str, description: str, record: Record) -> str:
    """The card of the sensor trainer's model, which learns from readings: no data set declares them."""
    metrics = [f"| {key} | {shown(value)} |" for key, value in sorted(record.metrics.items())]
    period = record.params.get("period", _UNKNOWN).replace("/", " to ")
    sections = {
        f"# {name}": f"{description} It comes from MLflow run `{record.run_id}`.",
        "## Data": f"Readings that were posted, of the period {period}.",
        "## Features": f"Values of a reading: {record.params.get('columns', _UNKNOWN).replace(',', ', ')}.",
        "## Quality": "\n".join(["| on the latest fifth of the readings | |", "|---|---:|", *metrics]),
        "## Limits": "- It knows the sensors above and no others, and what is usual for them in that period.\n"
        "- A reading that it flags is unusual. Without labels nobody could say that a failure follows.",
        "## How to make it again": _parameters(record),
    }
    return "\n".join(f"{title}\n\n{text}\n" for title, text in sections.items())


def _card(model: Model, record: Record, slices: str | None, *, named: bool) -> str:
    dataset = model.data
    sections = {
        f"# {model.name}": f"{model.description}\n\n{_origin(record)}",
        "## Data": _data(dataset, record),
        "## Features": _features(dataset, record, named=named),
        "## Quality": _quality(model, record) + _slices(json.loads(slices) if slices else {}),
        "## Intended use": _use(dataset, record),
        "## Limits": _limits(dataset, record),
        "## How to make it again": _parameters(record),
    }
    return "\n".join(f"{title}\n\n{text}\n" for title, text in sections.items())


def _slices(found: Mapping[str, Mapping[str, float]]) -> str:
    """How it did on parts of the test set, a row for each."""
    if not found:
        return ""
    names = list(dict.fromkeys(name for slice_ in found.values() for name in slice_))
    rows = [f"| {of} | {' | '.join(_measured(slice_, name) for name in names)} |" for of, slice_ in found.items()]
    return "\n\n" + "\n".join(
        [f"| part of the test set | {' | '.join(names)} |", f"|---|{'---:|' * len(names)}", *rows]
    )


def _measured(slice_: Mapping[str, float], name: str) -> str:
    """The number of rows, or a metric."""
    if name not in slice_:
        return _UNKNOWN
    return f"{slice_[name]:,}" if name == "rows" else shown(slice_[name])


def _parameters(record: Record) -> str:
    """What a run needs to come out the same. No image knows its commit: its tag is a hash of its content."""
    rows = [f"| {name} | `{value}` |" for name, value in sorted(record.params.items())]
    table = "\n".join(["| parameter of the run | |", "|---|---|", *rows])
    if (code := record.params.get("code_version")) is None:
        return table
    said = f"gives the image `task` the tag `{code}`, a hash of what is in it"
    return f"The code is that of each commit at which `python3 images/build.py --list-tags` {said}.\n\n{table}"


def _origin(record: Record) -> str:
    made_by = [
        f"MLflow run `{record.run_id}`",
        f"DAG `{record.tags.get(DAG_ID, _UNKNOWN)}`, run `{record.tags.get(DAG_RUN_ID, _UNKNOWN)}`",
        f"code version `{record.params.get('code_version', _UNKNOWN)}`",
    ]
    return f"{record.tags.get(DESCRIPTION, 'A model')}, from {'; '.join(made_by)}."


def _data(dataset: Dataset, record: Record) -> str:
    binary = dataset.label.kind == "binary"
    rows = [
        f"| | rows |{' positive |' if binary else ''} events |",
        f"|---|---:|{'---:|' if binary else ''}---|",
        *(_part(record, name, part, binary=binary) for name, part in (("training set", TRAIN), ("test set", TEST))),
    ]
    lines = [
        f"`{dataset.name}`: {dataset.description} {_label(dataset)}.",
        f"Version of its files: `{record.params.get('data_version', _UNKNOWN)}`.",
        "\n" + "\n".join(rows) + "\n",
        f"The test set is {_split(dataset)}.",
    ]
    shift = float(record.tags.get(EVENT_TIME_SHIFT, 0))
    if shift:
        lines.append(
            f"Event times are shifted by {shift:.0f} s ({timedelta(seconds=shift).days} days) from those of the files; "
            "the gaps between them are as they were."
        )
    return "\n".join(lines)


def _label(dataset: Dataset) -> str:
    match dataset.label.kind:
        case "binary":
            return f"Positive: {dataset.label.rule}"
        case "multiclass":
            return f"Classes of `{dataset.label.column}`: {', '.join(dataset[dataset.label.column].values)}"
        case "regression":
            return f"Estimated: the number `{dataset.label.column}`"


def _split(dataset: Dataset) -> str:
    share = f"{dataset.split.test_fraction:.0%} of the rows"
    if isinstance(dataset.split, SplitByTime):
        return f"the latest {share}"
    together = f", and all rows of one {' and '.join(dataset.groups)} lie in the same part" if dataset.groups else ""
    return f"about {share}, drawn by a hash of what names a row{together}"


def _part(record: Record, name: str, part: str, *, binary: bool) -> str:
    rows = record.metrics.get(f"{part}_rows", 0.0)
    positives = sum(record.metrics.get(f"{part}_{key}", 0.0) for key in ("true_positives", "false_negatives"))
    share = f" {positives / rows:.2%} |" if rows else f" {_UNKNOWN} |"
    period = record.tags.get(period_tag(part), _UNKNOWN).replace("/", " to ")
    return f"| {name} | {rows:,.0f} |{share if binary else ''} {period} |"


def _features(dataset: Dataset, record: Record, *, named: bool) -> str:
    if not record.feature_schema:
        columns = ", ".join(f"`{column.name}`" for column in dataset.features)
        derived = "; ".join(f"`{one.name}`, the {one.operation} of {' and '.join(one.of)}" for one in dataset.derived)
        made = f" Of these it computes {derived}." if derived else ""
        return f"{len(dataset.features)} columns of the data set itself: {columns}.{made}"
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


def _quality(model: Model, record: Record) -> str:
    def found(name: str) -> str:
        value = record.metrics.get(f"{TEST}_{name}")
        return _UNKNOWN if value is None else shown(value)

    judged = metrics.get(record.tags.get(METRIC, model.judged_by.name))
    listed = dict.fromkeys([judged, *metrics.of_kind(model.data.label.kind)])
    rows = [
        f"| {each.title} | {found(each.name)} | {found(f'baseline_{each.name}')} | {each.baseline} |" for each in listed
    ]
    criteria = record.criteria
    confidence = f"{100 * criteria['confidence']:g} %" if "confidence" in criteria else "stated"
    lines = [
        "| on the test set | model | baseline | which knows only |",
        "|---|---:|---:|---|",
        *rows,
        "",
        f"It is judged by {judged.title}, by which it gained {found('gain')} over the baseline: with {confidence}",
        f"confidence between {found('gain_lower')} and {found('gain_upper')} (paired bootstrap, percentile interval).",
    ]
    if "required_gain" in criteria:
        asked = [
            f"{metrics.get(name).title} {'below' if metrics.get(name).error else 'above'} {threshold:g}"
            for name, threshold in criteria.get("thresholds", {}).items()
        ]
        asked.append(f"that the whole interval lies above {shown(criteria['required_gain'])}")
        lines.append(f"The gate asked for {', and '.join(asked)}.")
    return "\n".join([*lines, *_champion(record)])


def _champion(record: Record) -> list[str]:
    ahead = record.advantage
    if not ahead:
        return []
    lower, upper = (shown(ahead[f"advantage_{end}"]) for end in ("lower", "upper"))
    gained = f"better by {shown(ahead['advantage'])}, between {lower} and {upper} (randomization test)"
    return [f"On the same rows as version {record.tags.get(CHAMPION, _UNKNOWN)}, then in production, it is {gained}."]


def _use(dataset: Dataset, record: Record) -> str:
    served = record.tags.get(FEATURE_SERVICE)
    source = f"features read from the feature service `{served}`" if served else "the columns named above"
    match dataset.label.kind:
        case "binary":
            what = f"how probable `{dataset.label.rule}` is"
        case "multiclass":
            what = f"how probable each class of `{dataset.label.column}` is"
        case "regression":
            what = f"`{dataset.label.column}`"
    return (
        f"To estimate, from {source}, {what} for a new row of the same kind of data. "
        "The alias `staging` means that it passed the gate, not that anybody looked at it: read this card before "
        "giving it the alias `production`."
    )


def _calibrated(record: Record) -> str:
    error = record.metrics.get(f"{TEST}_{CALIBRATION_ERROR}")
    measured = "" if error is None else f": on the test set they are off by {shown(error)} on average"
    return f"Its probabilities have not been calibrated{measured}."


def _limits(dataset: Dataset, record: Record) -> str:
    unknown = f" Of a `{dataset.entity}` that it has not met it knows what the features say." if dataset.entity else ""
    together = " and ".join(dataset.groups)
    independent = (
        f"The intervals take what has another {together} as independent."
        if together
        else "The intervals take the rows as independent. Rows that follow one another closely, or are about the same\n"
        "  thing, are not quite so: the true intervals may be wider."
    )
    numbers = dataset.label.kind == "regression"
    answer = "" if numbers else f"\n- {_calibrated(record)} A prediction is the most probable class."
    return f"""\
- It knows the data above and no other: where the data drifts, these scores no longer hold. `data_validation_pipeline`
  watches for that.{unknown}
- {independent}{answer}
- Nobody has checked that it treats groups of people alike: it must not decide about a person by itself."""
