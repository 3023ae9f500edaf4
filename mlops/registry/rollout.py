"""Brings a model version to the server of its model, or leaves the server as it was."""

import json
import logging
import urllib.error
import urllib.request

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from mlops.config import ModelServerSettings
from mlops.result import Failure, Result
from mlops.stores.deployments import Deployment, NotServed, Overtaken
from mlops.stores.tracking import Tracking

_SETTLING = 30.0  # seconds in which a Service may still send requests to a pod that is gone
_REQUEST_TIMEOUT = 20.0  # seconds

log = logging.getLogger(__name__)


def serve(tracking: Tracking, model: str, version: str, *, fallback: str | None, timeout: float) -> Result | None:
    """Rolls the model's server to the version; a request of one row that it answers by it now.

    None where no server serves the model, which values decide: it is left to the registry. fallback, timeout: as
    roll_out takes them.
    """
    settings = ModelServerSettings.from_environment()
    server = settings.of(model)
    if server is None:
        log.warning("no model server serves %s: it is registered and not served (modelServer.models)", model)
        return None
    deployment = Deployment(settings.namespace, server.deployment)
    example = tracking.input_example(f"models:/{model}/{version}")
    answered = roll_out(deployment, model, version, fallback, url=server.url, example=example, timeout=timeout)
    log.info("the model server answered with %d predictions", answered)
    split = json.loads(example)["dataframe_split"]
    # JSON has no NaN, by which MLflow writes a cell that is missing.
    rows = [[None if cell != cell else cell for cell in row] for row in split["data"][:1]]
    return {"columns": split["columns"], "data": rows}


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
        kept = f"version {fallback}" if fallback else "no model, as before"
        raise NotServed(f"{failure}; the model server went back to {kept}") from failure


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
