"""Fit a model and decide whether it is good enough."""

import argparse
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from math import isfinite, nan
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from mlops import measure, models
from mlops.config import RunIdentity
from mlops.datasets.declaration import GROUP, LABEL, SplitByTime
from mlops.models import metrics
from mlops.models.metrics import Metric, shown
from mlops.registry.aliases import PRODUCTION, production
from mlops.registry.record import (
    ADVANTAGE,
    CALIBRATION,
    CALIBRATION_ERROR,
    CHAMPION,
    FILL,
    GATE,
    GATE_PASSED,
    GATE_REASONS,
    GATE_REFUSED,
    GATE_THRESHOLDS,
    IN_THE_MODEL,
    METRIC,
    NO_CHAMPION,
    NOT_ASKED,
    RUN_KEY,
    SLICES,
    SPLIT,
    TEST,
    TEST_SCORES,
    TRAIN,
    Record,
)
from mlops.registry.runs import finished_run
from mlops.result import Refused, Result
from mlops.stores.object_store import data_bucket
from mlops.stores.tracking import MODEL_ARTIFACT, Tracking
from mlops.training import run
from mlops.training.hyperparameters import Hyperparameters
from mlops.training.network import commands as network
from mlops.training.provenance import check_served_age, feature_contract, period

if TYPE_CHECKING:
    import pandas as pd

    from mlops.datasets.declaration import Dataset
    from mlops.models.declaration import Model
    from mlops.training.families import Family
    from mlops.training.measures import Answers, Rows
    from mlops.training.resampling import Interval
    from mlops.training.score import Scores

_EXAMPLE_ROWS = 5
_SAMPLE = 10_000  # scores that a later batch is compared with
_CONFIDENCE = 0.95
_TELL, _FAIL = "tell", "fail"
_TOLD, _NONE = "told", "none"  # of the champion: compared with it, which is no reason; not compared
_BEFORE = ("accuracy", "f1", "auc")

log = logging.getLogger(__name__)


def fit(
    *,
    model: str,
    train: str,
    data_version: str,
    learning_rate: float,
    max_iter: int,
) -> Result:
    """Fits a model and logs it, with the data's and the code's version, as one MLflow run of this task instance.

    The run is tagged with the feature service and schema that the training set was made by, where the model has one.
    A retry hands back the run that an earlier try finished, and replaces one that it left unfinished or that was
    made from something else.
    """
    from mlops.training import families
    from mlops.training.columns import features_of, signature_of
    from mlops.training.measures import Answers, Rows
    from mlops.training.score import score

    declared, identity = models.get(model), RunIdentity.from_environment()
    dataset, family = declared.data, families.get(declared.family)
    if dataset.label.kind not in family.KINDS:
        raise Refused(f"model {model}: family {declared.family} learns no {dataset.label.kind} label: use another one")
    table, hyperparameters = data_bucket().read_table(train), Hyperparameters(learning_rate, max_iter)
    features, labels = features_of(table, dataset), table[LABEL]
    contract = feature_contract(table, train, declared.feature_service)
    params = run.params(declared, data_version, train, features.shape[1], asdict(hyperparameters))
    tracking = Tracking.from_environment()
    replaced = f"replaced by try {identity.try_number}"
    finished = finished_run(tracking, dataset.name, RUN_KEY, identity.run_key, replaced, params)
    if finished is not None:
        log.info("run %s was finished by an earlier try", finished.info.run_id)
        return _fitted(finished.info.run_id, finished.data.metrics)

    described = run.tags(declared, identity, family.describe(hyperparameters))
    tags = {**described, **contract, **period(table, TRAIN)}
    with tracking.new_run(dataset.name, f"{model} {identity.run_id}", tags) as run_id:
        tracking.log(run_id, params=params)
        fitted, rows = family.fit(features, labels, dataset, hyperparameters), Rows.of(labels, dataset)
        scores = score(rows, Answers.of(family.predict(fitted, features), rows), dataset.label.kind)
        logged = scores.logged(TRAIN)
        tracking.log(run_id, metrics=logged)
        signature = signature_of(features, dataset)
        example = features[[column.name for column in signature.inputs]].head(_EXAMPLE_ROWS)
        tracking.log_model(family.save(fitted), example, signature, family.PACKAGES)
    measure.count_records(len(table))
    log.info("run %s: %s", run_id, logged)
    return _fitted(run_id, logged)


def evaluate(
    *,
    model: str,
    run_id: str,
    test: str,
    accuracy_threshold: float | None,
    f1_threshold: float | None,
    auc_threshold: float | None,
    baseline_margin: float | None,
    confidence: float | None,
    champion: str,
    refused: str,
) -> Result:
    """Scores a run's model on the test set and says whether it passes the gate, and if not, why.

    It is compared with what the model declares, with what knows only the labels, and with the champion, where one is
    asked for and there is one. A champion that cannot be scored fails the command, unless it is only to be told of:
    nobody could say which is better. The run gets what its card shows of the test set.
    """
    from mlops.training.columns import features_of
    from mlops.training.gate import Criteria, refusals
    from mlops.training.measures import Answers, Rows
    from mlops.training.resampling import advantage, gain
    from mlops.training.score import score

    declared, tracking = models.get(model), Tracking.from_environment()
    dataset, record = declared.data, Record.read(tracking, run_id, declared)
    overrides = {"accuracy": accuracy_threshold, "f1": f1_threshold, "auc": auc_threshold}
    criteria = Criteria.of(declared, overrides, baseline_margin, confidence or _CONFIDENCE)
    metric, table = criteria.metric, data_bucket().read_table(test)
    check_served_age(table, test, record)
    features, rows = features_of(table, dataset), Rows.of(table[LABEL], dataset, table.get(GROUP))
    remedy = "give the test set that was made with its training set"
    answers = _answers(tracking, run_id, f"runs:/{run_id}/{MODEL_ARTIFACT}", features, rows, remedy)
    scores = score(rows, answers, dataset.label.kind, criteria.measured)
    gained = gain(metric, rows, answers, Answers.baseline(rows), criteria.confidence)
    version = None if champion == _NONE else production(tracking, model)
    find = _rival_if_any if champion == _TOLD else _rival
    rival = None if version is None else find(tracking, declared, version, features, rows)
    ahead = None if rival is None else advantage(metric, rows, answers, rival.answers, criteria.confidence)
    counts = None if rival is None or rival.has_seen or champion == _TOLD else ahead
    reasons = refusals(
        scores.model, scores.baseline[metric.name], gained, criteria, counts, _training_scores(record, declared)
    )
    compared = {
        "metric": metric.name,
        "thresholds": dict(criteria.thresholds),
        "required_gain": metric.required_gain(scores.baseline[metric.name], criteria.margin),
        "confidence": criteria.confidence,
    }
    calibrated = _log_files(tracking, run_id, declared, features, rows, answers)
    found = {**_rounded("gain", gained), **calibrated}
    tracking.log(
        run_id,
        metrics={
            **scores.logged(TEST),
            **{f"{TEST}_{name}": value for name, value in found.items() if value is not None},
        },
        tags={
            GATE: GATE_REFUSED if reasons else GATE_PASSED,
            GATE_REASONS: json.dumps(reasons),
            GATE_THRESHOLDS: json.dumps(compared),
            METRIC: metric.name,
            CHAMPION: _compared_with(champion, version, rival),
            **({} if ahead is None else {ADVANTAGE: json.dumps(_rounded("advantage", ahead))}),
            **period(table, TEST),
        },
    )
    measure.count_records(len(table))
    log.info("candidate: %s", scores)
    log.info("gate: %s", "; ".join(reasons) or "passed")
    if reasons and refused == _FAIL:
        raise Refused(f"run {run_id} is not good enough: {'; '.join(reasons)}")
    measured = {name: _number(value) for name, value in scores.model.items()}
    return {
        "passed": not reasons,
        "reasons": reasons,
        "summary": _summary(metric, scores, gained, criteria.confidence),
        "metric": metric.name,
        "metrics": {**measured, **calibrated},
        **measured,
        **{f"baseline_{name}": _number(value) for name, value in scores.baseline.items()},
        **_rounded("gain", gained),
        "confidence": criteria.confidence,
        "champion": None if rival is None or ahead is None else rival.told(metric, rows, ahead),
    }


def _log_files(
    tracking: Tracking, run_id: str, declared: "Model", features: "pd.DataFrame", rows: "Rows", answers: "Answers"
) -> dict[str, float | None]:
    """Writes what the card shows of the test set, and a sample of what the model says, into the run.

    Hands back the expected calibration error; nothing of a label that is not binary.
    """
    from mlops.training.calibration import calibration
    from mlops.training.slices import slices

    tracking.log_text(run_id, TEST_SCORES, json.dumps(_sample(answers, rows)))
    if declared.slices:
        found = slices(declared.slices, features, declared.data, rows, answers)
        tracking.log_text(run_id, SLICES, json.dumps(found))
    if rows.classes != (0, 1):
        return {}
    calibrated = calibration(rows.truth, answers.score)
    tracking.log_text(run_id, CALIBRATION, json.dumps(calibrated))
    return {CALIBRATION_ERROR: _number(calibrated["error"])}


class _Rival(NamedTuple):
    """The champion. has_seen: whether rows of this test set may have been in its training set."""

    version: str
    answers: "Answers"
    has_seen: bool

    def told(self, metric: Metric, rows: "Rows", ahead: "Interval") -> Result:
        from mlops.training.measures import measure

        note = {"note": "it may have trained on rows of this test set, so it is not a reason"} if self.has_seen else {}
        found = measure(metric)(rows, self.answers)
        return {"version": self.version, metric.name: _number(found), **_rounded("advantage", ahead), **note}


def _rival(tracking: Tracking, declared: "Model", version: str, features: "pd.DataFrame", rows: "Rows") -> _Rival:
    """What the champion says of the rows. Refused where it can say nothing, as where it reads other columns."""
    from mlops.training.columns import filled

    made_by = tracking.made_by(declared.name, version)
    params = tracking.run(made_by).data.params
    if params.get(FILL) != IN_THE_MODEL:
        features = filled(features, declared.data)
    remedy = (
        f"give the alias {PRODUCTION!r} of {declared.name} to a version that can, or take it away, and the next model "
        "that passes is compared with none"
    )
    answers = _answers(tracking, made_by, f"models:/{declared.name}/{version}", features, rows, remedy)
    rival = _Rival(version, answers, _may_have_seen(params, declared.data))
    if rival.has_seen:
        log.warning("version %s was split otherwise and may have trained on rows of this test set", version)
    return rival


def _rival_if_any(
    tracking: Tracking, declared: "Model", version: str, features: "pd.DataFrame", rows: "Rows"
) -> _Rival | None:
    """The same; None where it can say nothing."""
    try:
        return _rival(tracking, declared, version, features, rows)
    except Refused as refused:
        log.warning("not compared with version %s, which is in production: %s", version, refused)
        return None


def _compared_with(champion: str, version: str | None, rival: _Rival | None) -> str:
    """What the run is told of the comparison. rival: None where version is None, or could say nothing."""
    if champion == _NONE or (version is not None and rival is None):
        return NOT_ASKED
    return version or NO_CHAMPION


def _may_have_seen(params: Mapping[str, str], dataset: "Dataset") -> bool:
    """Whether a run with these parameters may have trained on what is now the test set.

    A run of before 0.2 does not say how its rows were split: by time it was as it is now, and by chance otherwise.
    """
    if SPLIT in params:
        return params[SPLIT] != dataset.split_rule
    return not isinstance(dataset.split, SplitByTime)


def _answers(
    tracking: Tracking, run_id: str, model_uri: str, features: "pd.DataFrame", rows: "Rows", remedy: str
) -> "Answers":
    """What a run's model says of the rows. Refused, with the remedy, where it was made for other columns or values."""
    from mlops.training.measures import Answers

    family, model = _load(tracking, run_id, model_uri)
    try:
        return Answers.of(family.predict(model, features), rows)
    except (KeyError, TypeError, ValueError) as error:
        raise Refused(f"{model_uri} cannot score this test set ({str(error)[:200]}): {remedy}") from error


def _load(tracking: Tracking, run_id: str, model_uri: str) -> "tuple[Family, Any]":
    """A model, and the family that the run which made it says it is of."""
    from mlops.training import families

    family = families.of(tracking.run(run_id).data.params)
    with TemporaryDirectory() as folder:
        return family, family.load(tracking.download_model(model_uri, Path(folder), family.LAYOUT))


def _sample(answers: "Answers", rows: "Rows") -> list[object]:
    """What the model says of at most _SAMPLE rows, evenly taken: probabilities of 1, classes, or numbers."""
    if not rows.classes:
        said = answers.values.tolist()
    elif rows.classes == (0, 1):
        said = answers.score.round(6).tolist()
    else:
        said = [rows.classes[place] for place in answers.values]
    return list(said[:: max(1, -(-len(said) // _SAMPLE))])


def _training_scores(record: Record, declared: "Model") -> dict[str, float]:
    """The scores on the training set; NaN for one that was not logged, because it is none.

    Of a run of before 0.2 it is asked for those that were logged then.
    """
    known = [metric.name for metric in metrics.of_kind(declared.data.label.kind)]
    names = (f"{TRAIN}_{name}" for name in (known if METRIC in record.tags else _BEFORE))
    return {name: record.metrics.get(name, nan) for name in names}


def _fitted(run_id: str, logged: Mapping[str, float]) -> Result:
    """Later steps log metrics to the same run: only those of this step are handed back."""
    return {"run_id": run_id, **{name: value for name, value in logged.items() if name.startswith(TRAIN)}}


def _summary(metric: Metric, scores: "Scores", gained: "Interval", confidence: float) -> str:
    value, baseline = scores.model[metric.name], scores.baseline[metric.name]
    return (
        f"{metric.title} {shown(value)}, {metric.baseline} {shown(baseline)}, gain between {shown(gained.lower)} and "
        f"{shown(gained.upper)} ({100 * confidence:g} % confidence)"
    )


def _rounded(name: str, interval: "Interval") -> dict[str, float | None]:
    ends = {name: interval.value, f"{name}_lower": interval.lower, f"{name}_upper": interval.upper}
    return {end: _number(value) for end, value in ends.items()}


def _number(value: float) -> float | None:
    return round(value, 6) if isfinite(value) else None


def _confidence_or_none(text: str) -> float | None:
    value = _number_or_none(text)
    if value is not None and not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} does not lie between 0 and 1")
    return value


def _number_or_none(text: str) -> float | None:
    """An empty text, as that of a Variable that nobody set, is None."""
    return float(text) if text.strip() else None


def _fit_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="a declared model")
    parser.add_argument("--train", required=True, metavar="KEY", help="the training set's key in the data bucket")
    parser.add_argument("--data-version", required=True, metavar="SHA256", help="digest of the files it was made of")
    default = Hyperparameters()
    parser.add_argument("--learning-rate", type=float, default=default.learning_rate, help="(%(default)s)")
    parser.add_argument("--max-iter", type=int, default=default.max_iter, help="the most trees (%(default)s)")


def _evaluate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="a declared model")
    parser.add_argument("--run-id", required=True, help="the MLflow run whose model is evaluated")
    parser.add_argument("--test", required=True, metavar="KEY", help="the test set's key in the data bucket")
    optional = partial(parser.add_argument, type=_number_or_none, metavar="NUMBER")
    optional("--accuracy-threshold", help="instead of the declared one, for labels of classes")
    optional("--f1-threshold", help="instead of the declared one, for binary labels")
    optional("--auc-threshold", help="instead of the declared one, for binary labels")
    optional("--baseline-margin", help="instead of the declared one")
    parser.add_argument(
        "--confidence",
        type=_confidence_or_none,
        metavar="NUMBER",
        help=f"of the intervals of the gain over the baseline and of the comparison ({_CONFIDENCE})",
    )
    parser.add_argument(
        "--champion",
        choices=(PRODUCTION, _TOLD, _NONE),
        default=PRODUCTION,
        help="the alias of the model that it must not be told to be worse than; or `told`: by how much it is better or "
        "worse than that is told, and is no reason (%(default)s)",
    )
    parser.add_argument(
        "--refused",
        choices=(_TELL, _FAIL),
        default=_TELL,
        help="what becomes of the command where the model is not good enough (%(default)s)",
    )


COMMANDS = {"fit": (fit, _fit_options), **network.COMMANDS, "evaluate": (evaluate, _evaluate_options)}
