"""What a worker asks of the Kubernetes API before the triggerer takes over: a pod, and no second one beside it.

Answers stay JSON: the client's models cost time, and refuse a pod that lacks what they hold to be required.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowException

from mlops.airflow.pods.manifest import TASK_INSTANCE, TRY
from mlops.airflow.pods.state import PodState
from mlops.retry import error_of, result_of

if TYPE_CHECKING:
    from kubernetes.client import ApiClient
    from tenacity import RetryCallState

_PATIENCE = 60.0  # seconds over which a call is repeated; names are deterministic, so repeating does no harm
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.25, 8.0  # seconds between two attempts
_FENCE = 150.0  # seconds to wait for an earlier try's end: longer than it takes to find a node unreachable
_FENCE_POLL = 0.25  # seconds

log = logging.getLogger(__name__)


def create_pod(client: ApiClient, pod: Mapping[str, Any]) -> None:
    """Creates the pod, or finds that this very try has created it already.

    Raises AirflowException in the API server's words where it refuses the pod or cannot be reached.
    """
    from kubernetes.client.exceptions import ApiException

    metadata = pod["metadata"]
    name, namespace = metadata["name"], metadata["namespace"]
    try:
        _call(client, "POST", namespace, body=pod)
        return
    except ApiException as error:
        if error.status != 409:
            raise AirflowException(f"the Kubernetes API refused the pod: {_words(error)}") from None
    found = _call(client, "GET", namespace, name)
    if found["metadata"].get("labels", {}).get(TRY) != metadata["labels"][TRY]:
        raise AirflowException(f"pod {name} exists and is not of this try: delete it and clear the task")
    log.info("pod %s exists already: this try had created it", name)


def end_earlier_tries(client: ApiClient, pod: Mapping[str, Any]) -> None:
    """Deletes the pods that earlier tries of the task instance left running, and waits for their end.

    Raises AirflowException where they do not end: two tries never run at once. The one exception is a pod whose node
    does not answer any more; it is forced out, since nobody can wait for a node that is gone.
    """
    from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

    retrying = Retrying(
        retry=retry_if_result(bool),
        wait=wait_fixed(_FENCE_POLL),
        stop=stop_after_delay(_FENCE),
        retry_error_callback=result_of,
    )
    if running := retrying(_end_running, client, pod["metadata"]):
        raise AirflowException(
            f"pods of an earlier try still run: end them with kubectl -n {pod['metadata']['namespace']} delete pod "
            f"{' '.join(running)}, then clear the task"
        )


def delete_pod(client: ApiClient, namespace: str, name: str, *, force: bool = False) -> None:
    """Asks for the pod's end; one that is gone already is no error. With force, its node is not asked."""
    from kubernetes.client.exceptions import ApiException

    body: dict[str, Any] = {"propagationPolicy": "Background", **({"gracePeriodSeconds": 0} if force else {})}
    try:
        _call(client, "DELETE", namespace, name, body=body)
    except ApiException as error:
        if error.status != 404:
            raise AirflowException(f"pod {name} cannot be deleted: {_words(error)}") from None


def _end_running(client: ApiClient, metadata: Mapping[str, Any]) -> list[str]:
    """The names of the pods of earlier tries that still run; each is asked to end. metadata: that of this try's pod."""
    namespace, selector = metadata["namespace"], f"{TASK_INSTANCE}={metadata['labels'][TASK_INSTANCE]}"
    listed = _call(client, "GET", namespace, query={"labelSelector": selector})["items"]
    others = [PodState.of(other) for other in listed if other["metadata"]["name"] != metadata["name"]]
    running = [other for other in others if other.finished is None]
    for other in running:
        _end(client, namespace, other)
    return [other.name for other in running]


def _end(client: ApiClient, namespace: str, pod: PodState) -> None:
    if pod.deletion is None:
        log.warning("an earlier try left pod %s running: deleting it", pod.name)
        delete_pod(client, namespace, pod.name)
    elif pod.unreachable(time.time()):
        log.warning("node %s does not confirm the end of pod %s: forcing it", pod.node, pod.name)
        delete_pod(client, namespace, pod.name, force=True)


def _call(
    client: ApiClient,
    method: str,
    namespace: str,
    name: str = "",
    *,
    query: Mapping[str, str] | None = None,
    body: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """One request, repeated while the API is away, overloaded, or has just started. Raises other refusals at once."""
    from tenacity import Retrying, stop_before_delay, wait_exponential
    from urllib3.exceptions import HTTPError

    retrying = Retrying(
        retry=_passes,
        wait=wait_exponential(_SHORTEST_PAUSE, max=_LONGEST_PAUSE),
        stop=stop_before_delay(_PATIENCE),
        reraise=True,
    )
    try:
        answer: dict[str, Any] = retrying(
            client.call_api,
            f"/api/v1/namespaces/{namespace}/pods" + (f"/{name}" if name else ""),
            method,
            query_params=list((query or {}).items()),
            header_params={"Content-Type": "application/json", "Accept": "application/json"},
            body=body,
            response_types_map=dict.fromkeys((200, 201, 202), "object"),
            auth_settings=["BearerToken"],
            _return_http_data_only=True,
        )
    except (HTTPError, OSError) as error:
        raise AirflowException(f"the Kubernetes API cannot be reached: {error}") from error
    return answer


def _passes(state: RetryCallState) -> bool:
    """Whether it is worth asking again after this attempt."""
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    error = error_of(state)
    if isinstance(error, ApiException):
        # 403: a server that has just started refuses everything until its roles are loaded, a matter of a second.
        starting = error.status == 403 and state.idle_for < 1.0
        return bool(error.status == 429 or error.status >= 500 or starting)
    return isinstance(error, HTTPError | OSError)


def _words(error: Any) -> str:
    """The API server's message, without the headers and the JSON around it."""
    try:
        return f"{error.status}: {json.loads(error.body)['message']}"
    except (TypeError, ValueError, KeyError):
        return f"{error.status}: {error.reason}"
