"""Fit a model and decide whether it is good enough."""

import argparse
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from math import isfinite, nan
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from mlops import models
from mlops.config import CodeSettings, RunIdentity
from mlops.datasets.declaration import LABEL
from mlops.registry.aliases import PRODUCTION, production
from mlops.registry.record import (
    CHAMPION,
    DAG_ID,
    DAG_RUN_ID,
    DESCRIPTION,
    GATE,
    GATE_PASSED,
    GATE_REASONS,
    GATE_REFUSED,
    GATE_THRESHOLDS,
    NO_CHAMPION,
    NOT_ASKED,
    RUN_KEY,
    TEST,
    TRAIN,
    Record,
)
from mlops.registry.runs import finished_run
from mlops.result import JSON, Refused, Result
from mlops.stores.object_store import data_bucket
from mlops.stores.tracking import MODEL_ARTIFACT, Tracking
from mlops.training.hyperparameters import Hyperparameters
from mlops.training.provenance import check_served_age, feature_contract, period

if TYPE_CHECKING:
    import pandas as pd

    from mlops.training.families import Family
    from mlops.training.score import Scores

_EXAMPLE_ROWS = 5

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
    from mlops.training.columns import features_of
    from mlops.training.score import score

    declared, identity = models.get(model), RunIdentity.from_environment()
    dataset, family = declared.data, families.get(declared.family)
    table, hyperparameters = data_bucket().read_table(train), Hyperparameters(learning_rate, max_iter)
    features, labels = features_of(table, dataset), table[LABEL]
    contract = feature_contract(table, train, declared.feature_service)
    params = {
        "model": model,
        "family": declared.family,
        "dataset": dataset.name,
        "data_version": data_version,
        "code_version": CodeSettings.from_environment().version,
        "train_key": train,
        "features": features.shape[1],
        **({"feature_service": declared.feature_service} if declared.feature_service else {}),
        **asdict(hyperparameters),
    }
    tracking = Tracking.from_environment()
    replaced = f"replaced by try {identity.try_number}"
    finished = finished_run(tracking, dataset.name, RUN_KEY, identity.run_key, replaced, params)
    if finished is not None:
        log.info("run %s was finished by an earlier try", finished.info.run_id)
        return _fitted(finished.info.run_id, finished.data.metrics)

    tags = {
        RUN_KEY: identity.run_key,
        DAG_ID: identity.dag_id,
        DAG_RUN_ID: identity.run_id,
        DESCRIPTION: family.describe(hyperparameters),
        "maestro.try_number": identity.try_number,
        **contract,
        **period(table, TRAIN),
    }
    with tracking.new_run(dataset.name, f"{model} {identity.run_id}", tags) as run_id:
        tracking.log(run_id, params=params)
        fitted = family.fit(features, labels, dataset, hyperparameters)
        metrics = score(family, fitted, features, labels).metrics(TRAIN) | {f"{TRAIN}_rows": float(len(table))}
        tracking.log(run_id, metrics=metrics)
        example = features.head(_EXAMPLE_ROWS)
        tracking.log_model(family.save(fitted), example, family.predict(fitted, example)[0], family.PACKAGES)
    log.info("run %s: %s", run_id, metrics)
    return _fitted(run_id, metrics)


def evaluate(
    *,
    model: str,
    run_id: str,
    test: str,
    accuracy_threshold: float,
    f1_threshold: float,
    baseline_margin: float,
    confidence: float,
    champion: str,
) -> Result:
    """Scores a run's model on the test set and says whether it passes the gate, and if not, why.

    It is compared with the thresholds, with always guessing the larger class, and with the champion, where one is
    asked for and there is one.
    """
    from mlops.training.columns import features_of
    from mlops.training.gate import Thresholds, gain, refusals, required_gain

    declared, tracking = models.get(model), Tracking.from_environment()
    record = Record.read(tracking, run_id, declared)
    table = data_bucket().read_table(test)
    check_served_age(table, test, record)
    features, labels = features_of(table, declared.data), table[LABEL]
    model_uri = f"runs:/{run_id}/{MODEL_ARTIFACT}"
    candidate, error = _try_to_score(tracking, run_id, model_uri, features, labels)
    if candidate is None:
        raise Refused(
            f"{model_uri} cannot score {test} ({error}): give the test set that was made with its training set"
        )
    champion_version = production(tracking, model) if champion == PRODUCTION else None
    rival = None
    if champion_version is not None:
        champion_uri = f"models:/{model}/{champion_version}"
        made_by = tracking.made_by(model, champion_version)
        rival, error = _try_to_score(tracking, made_by, champion_uri, features, labels)
    thresholds = Thresholds(accuracy_threshold, f1_threshold, baseline_margin, confidence)
    reasons = refusals(candidate, thresholds, rival, _training_scores(record))
    gained, interval = candidate.accuracy - candidate.baseline_accuracy, gain(candidate, confidence)
    compared = {**asdict(thresholds), "required_gain": required_gain(candidate.baseline_accuracy, baseline_margin)}
    tracking.log(
        run_id,
        metrics={
            **candidate.metrics(TEST),
            f"{TEST}_rows": float(candidate.rows),
            f"{TEST}_baseline_f1": candidate.baseline_f1,
            f"{TEST}_gain": gained,
            f"{TEST}_gain_lower": interval.lower,
            f"{TEST}_gain_upper": interval.upper,
        },
        tags={
            GATE: GATE_REFUSED if reasons else GATE_PASSED,
            GATE_REASONS: json.dumps(reasons),
            GATE_THRESHOLDS: json.dumps(compared),
            CHAMPION: (champion_version or NO_CHAMPION) if champion == PRODUCTION else NOT_ASKED,
            **period(table, TEST),
        },
    )
    log.info("candidate: %s", candidate)
    if champion_version is not None:
        log.info("production model, version %s: %s", champion_version, rival or error)
    log.info("gate: %s", "; ".join(reasons) or "passed")
    return {
        "passed": not reasons,
        "reasons": reasons,
        **_shown(candidate),
        "gain": round(gained, 6),
        "gain_lower": round(interval.lower, 6),
        "gain_upper": round(interval.upper, 6),
        "confidence": confidence,
        "champion": None
        if champion_version is None
        else {"version": champion_version, **(_shown(rival) if rival else {"error": error})},
    }


def _training_scores(record: Record) -> dict[str, float]:
    """The scores on the training set; NaN for one that was not logged, because it is none."""
    return {name: record.metrics.get(name, nan) for name in (f"{TRAIN}_accuracy", f"{TRAIN}_f1", f"{TRAIN}_auc")}


def _fitted(run_id: str, metrics: Mapping[str, float]) -> Result:
    """Later steps log metrics to the same run: only those of this step are handed back."""
    return {"run_id": run_id, **{name: value for name, value in metrics.items() if name.startswith(TRAIN)}}


def _try_to_score(
    tracking: Tracking, run_id: str, model_uri: str, features: "pd.DataFrame", labels: "pd.Series"
) -> tuple["Scores | None", str | None]:
    """The scores of a run's model, or why it cannot score these rows: it was made for other columns or values."""
    from mlops.training.score import score

    family, model = _load(tracking, run_id, model_uri)
    try:
        return score(family, model, features, labels), None
    except (KeyError, TypeError, ValueError) as error:
        log.warning("%s cannot score this test set: %s", model_uri, error)
        return None, str(error)[:200]


def _load(tracking: Tracking, run_id: str, model_uri: str) -> "tuple[Family, Any]":
    """A model, and the family that the run which made it says it is of."""
    from mlops.training import families

    family = families.of(tracking.run(run_id).data.params)
    with TemporaryDirectory() as folder:
        return family, family.load(tracking.download_model(model_uri, Path(folder), family.verify))


def _shown(scores: "Scores") -> dict[str, JSON]:
    names = ("accuracy", "f1", "auc", "baseline_accuracy")
    return {name: round(value, 6) if isfinite(value := getattr(scores, name)) else None for name in names}


def _confidence(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} does not lie between 0 and 1")
    return value


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
    parser.add_argument("--accuracy-threshold", required=True, type=float)
    parser.add_argument("--f1-threshold", required=True, type=float)
    parser.add_argument("--baseline-margin", required=True, type=float, help="above the majority class's accuracy")
    parser.add_argument(
        "--confidence",
        type=_confidence,
        default=0.95,
        help="of the interval that must lie above the margin (%(default)s)",
    )
    parser.add_argument(
        "--champion",
        choices=(PRODUCTION, "none"),
        default=PRODUCTION,
        help="the alias of the model that it must not be worse than (%(default)s)",
    )


COMMANDS = {"fit": (fit, _fit_options), "evaluate": (evaluate, _evaluate_options)}
