"""Does a running Airflow do its work? Its parts are healthy, the admin can log in, DAGs are there, settings work.

    python -m mlops.airflow.administration.check http://maestro-airflow-api-server:8080 [http://maestro-statsd:9102/metrics]
    python -m mlops.airflow.administration.check connections

The first is run by `helm test` in a pod that has the environment and the service account of Airflow's own; it may come
right after an install on a small node, so it is patient. The second is run by `make check-connections` in the
scheduler; it reads connections and variables from Airflow's database and the channels of messages from the environment,
and is about nothing else. Each line of the output is one check; a failed one says what to do.
"""

from __future__ import annotations

import json
import math
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mlops.config import MailSettings, NotificationSettings
from mlops.result import Failure

if TYPE_CHECKING:
    from requests import Response

USER, PASSWORD = "MAESTRO_ADMIN_USER", "MAESTRO_ADMIN_PASSWORD"  # environment keys

_PARTS = ("metadatabase", "scheduler", "triggerer", "dag_processor")
_TIMEOUT = 10  # seconds for one request
_PATIENCE = 120.0  # seconds for what is still coming up, such as the first DAG after an install
_PAUSE = 2.0  # seconds between two attempts


class CheckFailed(Exception):
    """What does not work, and the remedy."""


def main(arguments: list[str]) -> int:
    """The exit code: 0 where every check holds."""
    what, *metrics = arguments
    if what == "connections":
        results = list(check_settings(*stored()))
    else:
        results = list(check(what.rstrip("/"), os.environ[USER], os.environ[PASSWORD], *metrics, patience=_PATIENCE))
    return 0 if all(results) else 1


def check(
    address: str, user: str, password: str, metrics: str | None = None, *, patience: float = 0.0
) -> Iterator[bool]:
    """Prints each check as it ends; yields whether it held. patience: seconds in which all may begin to hold."""
    deadline = time.monotonic() + patience
    yield _report("health", check_health, address, deadline=deadline)
    if metrics:
        yield _report("metrics", check_metrics, metrics, deadline=deadline)
    yield (logged_in := _report("login", log_in, address, user, password, deadline=deadline))
    if not logged_in:
        return
    api = Api(address, user, password)
    yield _report("dags", check_dags, api, deadline=deadline)
    variables = {entry["key"]: entry["value"] for entry in api.get("variables?limit=1000")["variables"]}
    yield from check_settings(api.get("connections?limit=1000")["connections"], variables, deadline=deadline)


def stored() -> tuple[list[Mapping[str, Any]], dict[str, str]]:
    """Connections, with the fields that the API gives them, and variables, both out of Airflow's database."""
    from airflow.models.connection import Connection
    from airflow.models.variable import Variable
    from airflow.utils.session import create_session
    from sqlalchemy import select

    fields = ("conn_type", "host", "port", "extra")
    with create_session() as session:
        connections: list[Mapping[str, Any]] = [
            {"connection_id": row.conn_id} | {field: getattr(row, field) for field in fields}
            for row in session.scalars(select(Connection).order_by(Connection.conn_id))
        ]
        variables = {row.key: row.val for row in session.scalars(select(Variable).order_by(Variable.key))}
    return connections, variables


def check_settings(
    connections: list[Mapping[str, Any]], variables: Mapping[str, str], *, deadline: float = 0.0
) -> Iterator[bool]:
    """Uses each connection, each variable that has a use of its own, and each channel; yields whether that worked."""
    for connection in connections:
        yield _report(f"connection {connection['connection_id']}", use, connection, deadline=deadline)
    for name, use_value in _VARIABLES.items():
        if name in variables:
            yield _report(f"variable {name}", use_value, variables[name], deadline=deadline)
    told = NotificationSettings.from_environment()
    if recipients := variables.get("alert_email"):
        yield _report("variable alert_email", _recipients, recipients, told.mail, deadline=deadline)
    if told.mail.host:
        yield _report("mail", _mail, told.mail, deadline=deadline)
    if told.slack_webhook_url:
        yield _report("webhook", _webhook, told.slack_webhook_url, deadline=deadline)


def check_health(address: str) -> str:
    """Raises CheckFailed that names the parts without a recent heartbeat."""
    state = _request("GET", f"{address}/api/v2/monitor/health").json()
    ill = [part for part in _PARTS if (state.get(part) or {}).get("status") != "healthy"]
    if ill:
        raise CheckFailed(f"{', '.join(ill)} not healthy: look at the log of that pod with kubectl logs")
    return "all parts healthy"


def check_metrics(url: str) -> str:
    """Raises CheckFailed where the StatsD exporter has heard nothing of Airflow."""
    text = _request("GET", url, of="the StatsD exporter").text
    count = sum(line.startswith("airflow_") for line in text.splitlines())
    if not count:
        raise CheckFailed(f"{url} has no metric of Airflow: compare global.services.statsd with the exporter's Service")
    return f"{count} values of Airflow"


def log_in(address: str, user: str, password: str) -> str:
    """Raises CheckFailed where the login is refused."""
    Api(address, user, password)
    return f"as {user}"


class Api:
    """The public API as this user sees it."""

    def __init__(self, address: str, user: str, password: str) -> None:
        """Logs in. Raises CheckFailed where that is refused."""
        credentials = {"username": user, "password": password}
        self._address = f"{address}/api/v2"
        token = _request("POST", f"{address}/auth/token", json=credentials).json()["access_token"]
        self._headers = {"Authorization": f"Bearer {token}"}

    def get(self, path: str) -> Any:
        return _request("GET", f"{self._address}/{path}", headers=self._headers).json()


def check_dags(api: Api) -> str:
    """Raises CheckFailed where files cannot be imported, or there is no DAG."""
    count = api.get("dags?limit=1")["total_entries"]
    if errors := api.get("importErrors?limit=100")["import_errors"]:
        files = ", ".join(sorted(error["filename"] for error in errors))
        raise CheckFailed(f"{files} cannot be imported: the UI shows the cause under 'Dag import errors'")
    if not count:
        raise CheckFailed(
            "there is no DAG: look at the log of the dag-processor, and at airflow.dags, where DAG files come from"
        )
    return f"{count} listed"


def use(connection: Mapping[str, Any]) -> str:
    """Uses the connection for what its type is for, or at least reaches its host. Raises CheckFailed."""
    extra = json.loads(connection["extra"] or "{}")
    if connection["conn_type"] == "aws":
        return _list_buckets(extra)
    if connection["conn_type"] == "kubernetes":
        return _list_pods(extra)
    if connection["conn_type"] == "git":
        return _list_branches(connection["connection_id"])
    if not (connection["host"] and connection["port"]):
        return "has no host and port to reach: not used"
    if connection["conn_type"] == "http":
        return _get(f"http://{connection['host']}:{connection['port']}")
    return _reach(connection["host"], int(connection["port"]))


def _list_buckets(extra: Mapping[str, Any]) -> str:
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    endpoint = extra.get("endpoint_url")
    try:
        buckets = boto3.client("s3", endpoint_url=endpoint, region_name=extra.get("region_name")).list_buckets()
    except (BotoCoreError, ClientError) as error:
        raise CheckFailed(f"{endpoint} does not list its buckets ({error}): compare the keys in the Secret") from error
    return f"{len(buckets['Buckets'])} buckets at {endpoint}"


def _list_pods(extra: Mapping[str, Any]) -> str:
    from kubernetes import client, config
    from urllib3.exceptions import HTTPError

    namespace = extra.get("namespace") or "default"
    try:
        config.load_incluster_config()
        client.CoreV1Api().list_namespaced_pod(namespace, limit=1, _request_timeout=_TIMEOUT)
    except (client.ApiException, config.ConfigException, HTTPError) as error:
        raise CheckFailed(f"pods of {namespace} cannot be listed ({error}): look at the Role of Airflow") from error
    return f"lists pods of {namespace}"


def _list_branches(connection_id: str) -> str:
    from airflow.models.connection import Connection
    from airflow.providers.git.hooks.git import GitHook
    from airflow.sdk.exceptions import AirflowException
    from git import Git, GitCommandError

    try:
        # The hook looks there and, outside of Airflow's servers and tasks, nowhere else.
        os.environ[f"AIRFLOW_CONN_{connection_id.upper()}"] = Connection.get_connection_from_secrets(
            connection_id
        ).as_json()
        hook = GitHook(connection_id)
        with hook.configure_hook_env():
            found = str(Git().ls_remote("--heads", hook.repo_url, env=hook.env, kill_after_timeout=_TIMEOUT))
    except (GitCommandError, AirflowException, ValueError) as error:
        raise CheckFailed(
            f"its branches cannot be listed ({error}): compare address and Secret with airflow.dags.gitSync"
        ) from error
    return f"{len(found.splitlines())} branches at {hook.repo_url}"


def _get(url: str) -> str:
    import requests

    try:
        status = requests.get(url, timeout=_TIMEOUT).status_code
    except requests.RequestException as error:
        raise CheckFailed(
            f"{url} does not answer ({error}): look at the pods behind it with kubectl get pods"
        ) from error
    if status >= 500:  # below, somebody answers: an API need not have a first page, nor show it to everybody
        raise CheckFailed(f"{url} answers {status}: look at the log of the pods behind it with kubectl logs")
    return f"{url} answers {status}"


def _reach(host: str, port: int) -> str:
    try:
        socket.create_connection((host, port), timeout=_TIMEOUT).close()
    except OSError as error:
        raise CheckFailed(f"{host}:{port} cannot be reached ({error}): compare the address with the Service") from error
    return f"{host}:{port} reached"


def _share(value: str) -> str:
    return f"{_number(value, lambda number: 0 <= number <= 1, 'from 0 to 1'):g}"


def _share_or_declared(value: str) -> str:
    return _share(value) if value else "as the model declares"


def _max_age(value: str) -> str:
    if value == "declared":
        return "as the data set declares"
    return f"{_number(value, lambda number: 0 <= number < math.inf, 'of hours and not declared'):g} h"


def _days(value: str) -> str:
    return f"{_number(value, lambda number: 0 < number < math.inf, 'above 0'):g} days"


def _number(value: str, allowed: Callable[[float], bool], which: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not allowed(number):
        raise CheckFailed(f"{value!r} is no number {which}: correct it in airflow.variables and run helm upgrade")
    return number


def _recipients(value: str, mail: MailSettings) -> str:
    """Sends nothing."""
    if wrong := [address for address in re.split("[,;]", value) if not re.fullmatch(r"\s*[^@\s]+@[^@\s]+\s*", address)]:
        raise CheckFailed(f"{wrong[0]!r} is no address: correct it in airflow.variables and run helm upgrade")
    if not mail.host:
        raise CheckFailed(f"{value} gets no mail without a server: set global.notifications.mail and run helm upgrade")
    return value


def _mail(settings: MailSettings) -> str:
    """Greets the mail server, encrypted, and logs in. Sends nothing, and shows neither login nor address."""
    from mlops.notify.mail import greet

    try:
        greet(settings)
    except Failure as failure:
        raise CheckFailed(str(failure)) from None
    return f"{settings.host}:{settings.port} takes mail by {settings.security}"


def _webhook(value: str) -> str:
    """Reaches the host and posts nothing. What follows the host is the secret, and is not shown."""
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise CheckFailed(
            "is no http address: correct the key url of the Secret global.notifications.slackWebhookSecret"
        )
    return _reach(parts.hostname, parts.port or {"http": 80, "https": 443}[parts.scheme])


# What a variable is for, where something can be told of it without a DAG run.
_VARIABLES: Mapping[str, Callable[[str], str]] = {
    "model_accuracy_threshold": _share_or_declared,
    "model_f1_threshold": _share_or_declared,
    "model_baseline_margin": _share_or_declared,
    "model_confidence": _share_or_declared,
    "data_max_age_hours": _max_age,
    "drift_effect_threshold": _share,
    "anomaly_excess_threshold": _share,
    "feature_materialization_days": _days,
}


def _request(method: str, url: str, of: str = "the api-server", **options: Any) -> Response:
    import requests

    try:
        answer = requests.request(method, url, timeout=_TIMEOUT, **options)
    except requests.RequestException as error:
        raise CheckFailed(f"{url} does not answer ({error}): look at the log of {of}") from error
    if answer.status_code >= 400:
        raise CheckFailed(f"{url} answers {answer.status_code}: {answer.text[:500]}")
    return answer


def _report(name: str, run: Callable[..., str], *arguments: Any, deadline: float) -> bool:
    from tenacity import Retrying, retry_if_exception_type, stop_before_delay, wait_fixed

    retrying = Retrying(
        retry=retry_if_exception_type(CheckFailed),
        wait=wait_fixed(_PAUSE),
        stop=stop_before_delay(deadline - time.monotonic()),
        reraise=True,
    )
    try:
        outcome, held = retrying(run, *arguments), True
    except CheckFailed as problem:
        outcome, held = str(problem), False
    print(f"{'ok    ' if held else 'FAILED'} {name}: {outcome}", flush=True)  # noqa: T201
    return held


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
