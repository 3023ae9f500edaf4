"""Deploy, roll back and serve a model."""

import argparse
import json
import logging

from mlops import models
from mlops.config import ModelServerSettings, ServedModelSettings
from mlops.registry import aliases
from mlops.registry.learned import keep_training_data
from mlops.registry.record import CHAMPION, NO_CHAMPION, NOT_ASKED, Record
from mlops.registry.registration import register
from mlops.result import Failure, Refused, Result, Skip
from mlops.stores.deployments import Deployment
from mlops.stores.object_store import data_bucket
from mlops.stores.tracking import Tracking

_TIMEOUT = 600.0  # seconds; a pod of the model server is ready in about 20
_PATIENCE = 300.0  # seconds

log = logging.getLogger(__name__)


def deploy(*, model: str, run_id: str, timeout: float) -> Result:
    """Registers a run's model with its card, rolls the model server to it, and gives it the alias `production`.

    Skipped where the gate did not pass, or compared the model with another champion than the one it would replace.
    Repeating it registers nothing twice. Where the rollout fails, the server goes back and the aliases stay as they
    were.
    """
    declared, tracking = models.get(model), Tracking.from_environment()
    record = Record.read(tracking, run_id, declared)
    if not record.passed:
        raise Skip(f"not deployed: {'; '.join(record.reasons)}")
    champion = aliases.production(tracking, model)
    _skip_unless_compared(tracking, model, record, champion)
    version = register(tracking, declared, record)
    example = _roll_out(tracking, model, version, fallback=champion, timeout=timeout)
    replaced = aliases.promote(tracking, model, version)  # not the champion, where an earlier try came as far as this
    keep_training_data(tracking, declared, version, data_bucket())
    log.info("version %s of %s is in production, after version %s", version, model, replaced)
    return {"model": model, "version": version, "previous": replaced, "example": example}


def rollback(*, model: str, timeout: float) -> Result:
    """Rolls the model server back to the previous version and swaps the aliases `production` and `previous`."""
    declared, tracking = models.get(model), Tracking.from_environment()
    version, replaced = aliases.previous(tracking, model), aliases.production(tracking, model)
    example = _roll_out(tracking, model, version, fallback=replaced, timeout=timeout)
    aliases.promote(tracking, model, version)
    keep_training_data(tracking, declared, version, data_bucket())
    log.info("version %s of %s is in production again, after version %s", version, model, replaced)
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


def _roll_out(tracking: Tracking, model: str, version: str, *, fallback: str | None, timeout: float) -> Result | None:
    """A request of one row that the model server answers by the version now.

    None where it serves another model: it serves one, and leaves the others to the registry.
    """
    from mlops.serving.rollout import roll_out

    settings = ModelServerSettings.from_environment()
    deployment = Deployment(settings.namespace, settings.deployment)
    served = deployment.environment().get("MODEL_NAME")
    if served != model:
        log.warning(
            "the model server serves %s: %s is registered and not served (modelServer.modelName)", served, model
        )
        return None
    example = tracking.input_example(f"models:/{model}/{version}")
    answered = roll_out(deployment, model, version, fallback, url=settings.url, example=example, timeout=timeout)
    log.info("the model server answered with %d predictions", answered)
    split = json.loads(example)["dataframe_split"]
    return {"columns": split["columns"], "data": split["data"][:1]}


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
    _timeout_option(parser)


def _rollback_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="a declared model")
    _timeout_option(parser)


def _timeout_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--timeout", type=float, default=_TIMEOUT, help="seconds for the rollout (%(default)s)")


def _seal_options(parser: argparse.ArgumentParser) -> None:
    """It has none."""


def _serve_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=8080, help="port to listen on (%(default)s)")
    parser.add_argument("--patience", type=float, default=_PATIENCE, help="seconds to wait for MLflow (%(default)s)")


COMMANDS = {
    "deploy": (deploy, _deploy_options),
    "rollback": (rollback, _rollback_options),
    "seal": (seal, _seal_options),
    "serve": (serve, _serve_options),
}
