"""Deploy, roll back and serve a model."""

import argparse
import logging

from mlops import models
from mlops.config import ServedModelSettings
from mlops.registry.commands import rollback, rollback_options
from mlops.registry.learned import keep_training_data
from mlops.registry.model_registry import TIMEOUT
from mlops.registry.promotion import Reason, changing
from mlops.registry.record import CHAMPION, NO_CHAMPION, NOT_ASKED, Record
from mlops.registry.registration import keep_card, register
from mlops.result import Failure, Refused, Result, Skip
from mlops.stores.ledger import Ledger
from mlops.stores.object_store import data_bucket
from mlops.stores.tracking import Tracking

_PATIENCE = 300.0  # seconds

log = logging.getLogger(__name__)


def deploy(*, model: str, run_id: str, timeout: float) -> Result:
    """Registers a run's model with its card, rolls the model server to it, and gives it the alias `production`.

    Skipped where the gate did not pass, or compared the model with another champion than the one it would replace.
    Repeating it registers nothing twice. The ledger gets an entry of it. Where the rollout fails, the server goes back
    and the aliases stay as they were.
    """
    from mlops.registry import rollout

    declared, tracking = models.get(model), Tracking.from_environment()
    record = Record.read(tracking, run_id, declared)
    if not record.passed:
        raise Skip(f"not deployed: {'; '.join(record.reasons)}")
    with changing(tracking, Ledger.from_environment(), model) as production:
        champion = production.version
        _skip_unless_compared(tracking, model, record, champion)
        version = register(tracking, declared, record)
        keep_card(tracking, model, version)
        example = rollout.serve(tracking, model, version, fallback=champion, timeout=timeout)
        # Not the champion, where an earlier try came as far as this.
        replaced = production.promote(version, Reason("it passed the gate", record.evidence))
    keep_training_data(tracking, declared, version, data_bucket())
    log.info("version %s of %s is in production, after version %s", version, model, replaced)
    return {"model": model, "version": version, "previous": replaced, "example": example}


def seal() -> Result:
    """Records what the files of versions with an alias are now, of those that were made before that was done.

    Refused, after all others are sealed, where one of them is not safe to load.
    """
    from mlops.training import families

    tracking = Tracking.from_environment()
    sealed, refused = [], []
    for entry in tracking.aliased_versions():
        name = f"{entry.model}/{entry.version}"
        family = families.of(tracking.run(tracking.made_by(entry.model, entry.version)).data.params)
        try:
            if tracking.seal(entry.model, entry.version, family.LAYOUT):
                log.info("version %s of %s is sealed", entry.version, entry.model)
                sealed.append(name)
        except Failure as failure:
            log.error("%s", failure)
            refused.append(name)
    if refused:
        raise Refused(f"{', '.join(refused)} cannot be sealed, as the log says: take their aliases away, or train anew")
    return {"sealed": sealed}


def serve(*, host: str, port: int, patience: float) -> Result:
    """Serves a model by MLflow's scoring server; without a model, waits and says so."""
    from mlops.serving import server

    server.serve(ServedModelSettings.from_environment(), host, port, patience)
    return {}


def _skip_unless_compared(tracking: Tracking, model: str, record: Record, champion: str | None) -> None:
    """Skips a model whose comparison was with another champion: one that was deployed since may be better than it."""
    compared = record.tags.get(CHAMPION, NOT_ASKED)
    if compared in (NOT_ASKED, champion or NO_CHAMPION):
        return
    if champion is not None and tracking.made_by(model, champion) == record.run_id:
        return  # an earlier try of this deployment came as far as that
    raise Skip(
        f"not deployed: it was compared with version {compared} and would replace version {champion or NO_CHAMPION}, "
        "which is in production by now: clear evaluate_model to compare these two"
    )


def _deploy_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="a declared model")
    parser.add_argument("--run-id", required=True, help="the MLflow run whose model is deployed")
    parser.add_argument("--timeout", type=float, default=TIMEOUT, help="seconds for the rollout (%(default)s)")


def _seal_options(parser: argparse.ArgumentParser) -> None:
    """It has none."""


def _serve_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=8080, help="port to listen on (%(default)s)")
    parser.add_argument("--patience", type=float, default=_PATIENCE, help="seconds to wait for MLflow (%(default)s)")


COMMANDS = {
    "deploy": (deploy, _deploy_options),
    "rollback": (rollback, rollback_options),
    "seal": (seal, _seal_options),
    "serve": (serve, _serve_options),
}
