"""Register a model that passed the gate, or say why one did not."""

import argparse
import logging

from mlops import models
from mlops.registry.aliases import STAGING
from mlops.registry.card import FILE
from mlops.registry.record import FEATURE_SERVICE, Record
from mlops.registry.registration import stage
from mlops.result import Refused, Result
from mlops.stores.tracking import Tracking

log = logging.getLogger(__name__)


def register(*, model: str, run_id: str) -> Result:
    """Registers a run's model with its card, tags it with what it was made of, and gives it the alias `staging`."""
    declared, tracking = models.get(model), Tracking.from_environment()
    record = Record.read(tracking, run_id, declared)
    if not record.passed:
        raise Refused(f"run {run_id} did not pass the gate: {'; '.join(record.reasons)}: train a better model")
    version = stage(tracking, declared, record)
    log.info("version %s of %s has the alias %s", version, model, STAGING)
    return {
        "registered": True,
        "model": model,
        "version": version,
        "model_version": version,
        "registered_path": f"models:/{model}/{version}",
        "alias": STAGING,
        "feature_service": record.tags.get(FEATURE_SERVICE),
        "card": f"runs:/{run_id}/{FILE}",
    }


def skip(*, run_id: str) -> Result:
    """Says why a run's model is not registered; the gate wrote the reasons into the run's tags."""
    record = Record.read(Tracking.from_environment(), run_id)
    if record.passed:
        raise Refused(f"run {run_id} passed the gate: register it with 'python -m mlops registry register'")
    for reason in record.reasons:
        log.warning("not registered: %s", reason)
    return {"registered": False, "run_id": run_id, "reasons": record.reasons}


def _register_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="a declared model")
    _skip_options(parser)


def _skip_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run-id", required=True, help="the MLflow run that the gate judged")


COMMANDS = {"register": (register, _register_options), "skip": (skip, _skip_options)}
