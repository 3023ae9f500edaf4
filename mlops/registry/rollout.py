"""Brings a model version to the server of its model, or leaves the server as it was."""

import json
import logging
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from mlops.config import ModelServerSettings
from mlops.registry.promotion import Production
from mlops.result import Failure, Result
from mlops.stores.deployments import Deployment, NotServed, Overtaken
from mlops.stores.tracking import Tracking

_SETTLING = 30.0  # seconds in which a Service may still send requests to a pod that is gone
_REQUEST_TIMEOUT = 20.0  # seconds

log = logging.getLogger(__name__)


class ServedModel:
    """A model, with the server that values give it, for who alone may change which version is in production."""

    def __init__(self, tracking: Tracking, model: str, production: Production) -> None:
        self._tracking, self._model, self._production = tracking, model, production
        settings = ModelServerSettings.from_environment()
        self._server = settings.of(model)
        self._deployment = None if self._server is None else Deployment(settings.namespace, self._server.deployment)

    def strayed(self) -> str | None:
        """The version that the server was left at by who died, or could not write it down; None where there is none."""
        served = None if self._deployment is None else self._deployment.model_version(self._model)
        return served if served != self._production.version else None

    @contextmanager
    def rolled(self, version: str, timeout: float) -> Iterator[Result | None]:
        """Has the version served: a request of one row that the server answers by it now.

        The block writes down that it is in production. Where it fails before the ledger says so, the server goes back.
        None where no server serves the model, which values decide: it is left to the registry. timeout: as roll_out
        takes it.
        """
        fallback = self._production.version
        if self._server is None or self._deployment is None:
            log.warning("no model server serves %s: it is registered and not served (modelServer.models)", self._model)
            yield None
            return
        if (left := self.strayed()) not in (None, version):
            log.warning("the model server was left at version %s, which is not in production", left)
        example = self._tracking.input_example(f"models:/{self._model}/{version}")
        url = self._server.url
        answered = roll_out(self._deployment, self._model, version, fallback, url=url, example=example, timeout=timeout)
        log.info("the model server answered with %d predictions", answered)
        try:
            yield _row(example)
        except Failure as failure:
            if fallback == version or self._decided(version, failure):
                raise
            self._deployment.set_model_version(self._model, fallback)
            raise NotServed(f"{failure}; the model server went back to {_kept(fallback)}") from failure

    def _decided(self, version: str, failure: Failure) -> bool:
        """Whether the ledger says that the version is in production."""
        try:
            return self._production.decided() == version
        except Failure:
            raise Failure(
                f"{failure}; what the ledger says of it cannot be seen: the model server is left at version {version}, "
                "and the next change of the model, or a rollback, puts that right"
            ) from failure


def _row(example: bytes) -> Result:
    split = json.loads(example)["dataframe_split"]
    # JSON has no NaN, by which MLflow writes a cell that is missing.
    rows = [[None if cell != cell else cell for cell in row] for row in split["data"][:1]]
    return {"columns": split["columns"], "data": rows}


def _kept(fallback: str | None) -> str:
    return f"version {fallback}" if fallback else "no model, as before"


def roll_out(
    deployment: Deployment,
    model: str,
    version: str,
    fallback: str | None,
    *,
    url: str,
    example: bytes,
    timeout: float,
) -> int:
    """Returns how many predictions the server answered `example` with, once all its pods have the version.

    fallback: the version to return to where that fails (None: whatever the alias `production` names); NotServed is then
    raised with the cause. A version that somebody else rolled out meanwhile stays. url: the model server's; example:
    the JSON body of a request; timeout: seconds.
    """
    log.info("rolling the model server to version %s", version)
    try:
        deployment.set_model_version(model, version)
        deployment.wait_for_rollout(version, timeout)
        return predictions(url, example) if deployment.replicas() else 0
    except Overtaken:
        raise
    except Failure as failure:
        if fallback == version:
            raise
        deployment.set_model_version(model, fallback)
        raise NotServed(f"{failure}; the model server went back to {_kept(fallback)}") from failure


def predictions(url: str, example: bytes) -> int:
    """How many predictions a scoring server answers. Raises Failure where it gives none within 30 s."""
    retrying = Retrying(
        retry=retry_if_exception_type(Failure), wait=wait_fixed(1), stop=stop_after_delay(_SETTLING), reraise=True
    )
    return retrying(_predictions, url, example)


def _predictions(url: str, example: bytes) -> int:
    request = urllib.request.Request(f"{url}/invocations", example, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=_REQUEST_TIMEOUT) as answer:
            return len(json.load(answer)["predictions"])
    except urllib.error.HTTPError as error:
        cause = f"{error.code} {error.read(500).decode(errors='replace')}"
    except (OSError, ValueError, KeyError) as error:
        cause = str(error)
    raise Failure(f"the model server at {url} does not answer the model's input example: {cause}")
