"""Fit a model and decide whether it is good enough."""

import argparse
import logging
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from math import isfinite
from typing import TYPE_CHECKING

from mlops import datasets
from mlops.config import RunIdentity, Settings
from mlops.datasets.declaration import LABEL
from mlops.result import JSON, Result
from mlops.stores.object_store import data_bucket
from mlops.stores.tracking import MODEL_ARTIFACT, Tracking
from mlops.training.hyperparameters import Hyperparameters

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities import Run

    from mlops.training.score import Scores

RUN_KEY = "maestro.run_key"
_REQUIREMENTS = ("scikit-learn", "skops", "pandas", "numpy")  # what the logged model needs to run
_EXAMPLE_ROWS = 5
_TRAIN, _TEST = "train", "test"  # prefixes of metrics

log = logging.getLogger(__name__)


def fit(*, dataset: str, train: str, data_version: str, learning_rate: float, max_iter: int) -> Result:
    """Fits a model and logs it, with the data's and the code's version, as one MLflow run of this task instance.

    A retry hands back the run that an earlier try finished, and replaces one that it left unfinished or that was
    made from something else.
    """
    from mlops.training.model import train_model
    from mlops.training.score import score

    declared, identity, settings = datasets.get(dataset), RunIdentity.from_environment(), Settings.from_environment()
    hyperparameters = Hyperparameters(learning_rate, max_iter)
    params = {
        "dataset": dataset,
        "data_version": data_version,
        "code_version": settings.code_version,
        "train_key": train,
        "features": len(declared.features),
        **asdict(hyperparameters),
    }
    tracking = Tracking(settings.mlflow_tracking_uri)
    finished = _finished_run(tracking, dataset, identity, params)
    if finished is not None:
        log.info("run %s was finished by an earlier try", finished.info.run_id)
        return _fitted(finished.info.run_id, finished.data.metrics)

    table = data_bucket(settings).read_table(train)
    features, labels = table[[column.name for column in declared.features]], table[LABEL]
    tags = {
        RUN_KEY: identity.run_key,
        "maestro.dag_id": identity.dag_id,
        "maestro.dag_run_id": identity.run_id,
        "maestro.try_number": identity.try_number,
    }
    with tracking.new_run(dataset, f"{declared.model_name} {identity.run_id}", tags) as run_id:
        tracking.log(run_id, params=params)
        model = train_model(features, labels, declared, hyperparameters)
        metrics = score(model, features, labels).metrics(_TRAIN) | {f"{_TRAIN}_rows": float(len(table))}
        tracking.log(run_id, metrics=metrics)
        requirements = [f"{package}=={version(package)}" for package in _REQUIREMENTS]
        tracking.log_model(model, features.head(_EXAMPLE_ROWS), requirements)
    log.info("run %s: %s", run_id, metrics)
    return _fitted(run_id, metrics)


def evaluate(
    *, dataset: str, run_id: str, test: str, accuracy_threshold: float, f1_threshold: float, baseline_margin: float
) -> Result:
    """Scores a run's model on the test set and says whether it may go into production, and if not, why.

    It is compared with the thresholds, with always guessing the larger class, and with the production model.
    """
    from mlops.registry.promotion import production
    from mlops.training.gate import Thresholds, refusals
    from mlops.training.score import score

    declared, settings = datasets.get(dataset), Settings.from_environment()
    tracking = Tracking(settings.mlflow_tracking_uri)
    table = data_bucket(settings).read_table(test)
    features, labels = table[[column.name for column in declared.features]], table[LABEL]
    candidate = score(tracking.load_model(f"runs:/{run_id}/{MODEL_ARTIFACT}"), features, labels)
    champion_version = production(tracking, declared.model_name)
    champion, error = None, None
    if champion_version is not None:
        champion, error = _score_champion(
            tracking, f"models:/{declared.model_name}/{champion_version}", features, labels
        )
    reasons = refusals(candidate, Thresholds(accuracy_threshold, f1_threshold, baseline_margin), champion)
    tracking.log(
        run_id,
        metrics=candidate.metrics(_TEST),
        tags={"maestro.gate": "; ".join(reasons) or "passed", "maestro.champion": champion_version or "none"},
    )
    log.info("candidate: %s", candidate)
    if champion_version is not None:
        log.info("production model, version %s: %s", champion_version, champion or error)
    log.info("gate: %s", "; ".join(reasons) or "passed")
    return {
        "passed": not reasons,
        "reasons": reasons,
        **_shown(candidate),
        "champion": None
        if champion_version is None
        else {"version": champion_version, **(_shown(champion) if champion else {"error": error})},
    }


def _finished_run(
    tracking: Tracking, experiment: str, identity: RunIdentity, params: Mapping[str, object]
) -> "Run | None":
    """The run of this task instance that an earlier try finished with the same parameters.

    All its other runs that are finished or look as if they were running are ended, so that one at most counts.
    """
    wanted = {name: str(value) for name, value in params.items()}
    kept = None
    for run in tracking.runs(experiment, RUN_KEY, identity.run_key):
        if kept is None and run.info.status == "FINISHED" and run.data.params == wanted:
            kept = run
        elif run.info.status in ("FINISHED", "RUNNING"):
            tracking.end_run(run.info.run_id, f"replaced by try {identity.try_number}")
    return kept


def _fitted(run_id: str, metrics: Mapping[str, float]) -> Result:
    """Later steps log metrics to the same run: only those of this step are handed back."""
    return {"run_id": run_id, **{name: value for name, value in metrics.items() if name.startswith(_TRAIN)}}


def _score_champion(
    tracking: Tracking, model_uri: str, features: "pd.DataFrame", labels: "pd.Series"
) -> tuple["Scores | None", str | None]:
    """The production model's scores, or why it cannot score these rows: it was made for other columns or values."""
    from mlops.training.score import score

    champion = tracking.load_model(model_uri)
    try:
        return score(champion, features, labels), None
    except (KeyError, TypeError, ValueError) as error:
        log.warning("%s cannot score this test set, so it is not compared: %s", model_uri, error)
        return None, str(error)[:200]


def _shown(scores: "Scores") -> dict[str, JSON]:
    names = ("accuracy", "f1", "auc", "baseline_accuracy")
    return {name: round(value, 6) if isfinite(value := getattr(scores, name)) else None for name in names}


def _fit_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--train", required=True, metavar="KEY", help="the training set's key in the data bucket")
    parser.add_argument("--data-version", required=True, metavar="SHA256", help="digest of the files it was made of")
    default = Hyperparameters()
    parser.add_argument("--learning-rate", type=float, default=default.learning_rate, help="(%(default)s)")
    parser.add_argument("--max-iter", type=int, default=default.max_iter, help="the most trees (%(default)s)")


def _evaluate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--run-id", required=True, help="the MLflow run whose model is evaluated")
    parser.add_argument("--test", required=True, metavar="KEY", help="the test set's key in the data bucket")
    parser.add_argument("--accuracy-threshold", required=True, type=float)
    parser.add_argument("--f1-threshold", required=True, type=float)
    parser.add_argument("--baseline-margin", required=True, type=float, help="above the majority class's accuracy")


COMMANDS = {"fit": (fit, _fit_options), "evaluate": (evaluate, _evaluate_options)}
