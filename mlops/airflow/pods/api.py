"""The few calls of the Kubernetes API that the triggerer makes, patient with an API that is away for a while.

Answers stay JSON: the client's models cost more time than the requests do.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import aiohttp
    from kubernetes_asyncio.client import ApiClient
    from tenacity import RetryCallState

JsonObject = dict[str, Any]
Answer = TypeVar("Answer")

_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
_TIMEOUT = 20.0  # seconds without a byte of an answer
_CONNECT_TIMEOUT = 10.0  # seconds
_PATIENCE = 30.0  # seconds over which a read or a delete is repeated
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0  # seconds between two attempts
# The server's bookmarks come about once a minute, so a watch that is silent for longer is dead: its node or a
# load balancer went away without a word.
_WATCH_SILENCE = 150.0  # seconds
_WATCH_LIFE = (240, 300)  # seconds after which the server ends a watch; drawn, so that many do not end at once


class ApiError(Exception):
    """The API server's refusal, with its status code and its words."""

    def __init__(self, status: int, body: bytes) -> None:
        try:
            message = json.loads(body)["message"]
        except (ValueError, KeyError, TypeError):
            message = body[:300].decode(errors="replace")
        super().__init__(f"the Kubernetes API answered {status}: {message}")
        self.status = status


class PodApi:
    """Pods of one namespace, over an Airflow connection (its extra; in a pod the service account by default)."""

    def __init__(self, conn_id: str, namespace: str) -> None:
        self.conn_id = conn_id
        self.namespace = namespace
        self.loop = asyncio.get_running_loop()  # connections belong to it
        self._client: ApiClient | None = None
        self._connected_at = 0.0
        self._stack = contextlib.AsyncExitStack()
        self._connecting = asyncio.Lock()

    async def close(self) -> None:
        self._client = None
        await self._stack.aclose()

    async def read(self, name: str) -> JsonObject | None:
        """The pod; None where there is none of that name."""
        try:
            return await self._json("GET", name, patience=_PATIENCE)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def delete(self, name: str, uid: str | None = None) -> None:
        """Asks for the pod's end; with a uid, of that very pod. One that is gone already is no error."""
        body: JsonObject = {"propagationPolicy": "Background"}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        try:
            await self._json("DELETE", name, patience=_PATIENCE, body=body)
        except ApiError as error:
            if error.status not in (404, 409):
                raise

    async def pods(self, selector: str) -> JsonObject:
        """All pods with the label, and the version at which the list was true. Asked once, without patience."""
        return await self._json("GET", query={"labelSelector": selector})

    async def watch(self, selector: str, version: str) -> AsyncGenerator[JsonObject]:
        """The events after the version of a list, until the server ends the watch. Raises what breaks it."""
        query = {
            "labelSelector": selector,
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(random.randint(*_WATCH_LIFE)),
        }
        async with self._open("GET", read_timeout=_WATCH_SILENCE, query=query) as response:
            async for lines in _lines(response):
                for line in lines:
                    event: JsonObject = json.loads(line)
                    if event["type"] == "ERROR":
                        raise ApiError(event["object"].get("code", 500), json.dumps(event["object"]).encode())
                    yield event

    async def log(self, name: str, container: str, *, follow: bool, since: str | None) -> AsyncGenerator[list[bytes]]:
        """The log's lines, as they come together, each with its time in front, from the second `since` (RFC 3339) on.

        Raises what breaks it.
        """
        query = {"container": container, "timestamps": "true", "follow": str(follow).lower()}
        if since is not None:
            query["sinceTime"] = since
        read_timeout = None if follow else _TIMEOUT  # a container may be silent for hours
        async with self._open("GET", f"{name}/log", read_timeout=read_timeout, query=query) as response:
            async for lines in _lines(response):
                yield lines

    async def patiently(self, call: Callable[[], Awaitable[Answer]], patience: float) -> Answer:
        """Repeats the call for `patience` seconds while the API is away, overloaded, or has just started."""
        from tenacity import AsyncRetrying, stop_before_delay
        from tenacity.asyncio import retry_if_exception

        retrying = AsyncRetrying(
            retry=retry_if_exception(self.passing), wait=_pause, stop=stop_before_delay(patience), reraise=True
        )
        answer: Answer = await retrying(call)
        return answer

    async def passing(self, error: BaseException) -> bool:
        """Whether it is worth asking again after this error. Credentials that were refused are read anew first."""
        import aiohttp

        if isinstance(error, ApiError):
            # Of many requests that are refused at once, the first one has the credentials read.
            if error.status == 401 and time.monotonic() - self._connected_at > _LONGEST_PAUSE:
                await self.close()
            # 403: a server that has just started refuses everything until its roles are loaded.
            return error.status in (401, 403, 429) or error.status >= 500
        return isinstance(error, aiohttp.ClientError | TimeoutError | OSError)

    async def _json(
        self,
        method: str,
        path: str = "",
        *,
        patience: float = 0.0,
        body: JsonObject | None = None,
        query: Mapping[str, str] | None = None,
    ) -> JsonObject:
        async def once() -> JsonObject:
            async with self._open(method, path, read_timeout=_TIMEOUT, body=body, query=query) as response:
                answer: JsonObject = json.loads(await response.read())
                return answer

        return await self.patiently(once, patience)

    @contextlib.asynccontextmanager
    async def _open(
        self,
        method: str,
        path: str = "",
        *,
        read_timeout: float | None,
        body: JsonObject | None = None,
        query: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        import aiohttp

        client = await self._connected()
        response: aiohttp.ClientResponse = await client.call_api(
            f"/api/v1/namespaces/{self.namespace}/pods" + (f"/{path}" if path else ""),
            method,
            query_params=list((query or {}).items()),
            header_params={"Content-Type": "application/json"},
            body=body,
            auth_settings=["BearerToken"],
            _preload_content=False,
            _request_timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT, sock_read=read_timeout),
        )
        async with response:
            if response.status >= 300:
                raise ApiError(response.status, await response.read())
            yield response

    async def _connected(self) -> ApiClient:
        async with self._connecting:
            if self._client is None:
                self._client = await self._connect()
                self._connected_at = time.monotonic()
            return self._client

    async def _connect(self) -> ApiClient:
        client, hook_class = await asyncio.to_thread(_imports)
        # No bound on connections: each running pod's log holds one open, and a bound would make pods wait for pods.
        configuration = client.Configuration()
        configuration.connection_pool_maxsize = 0
        hook = hook_class(conn_id=self.conn_id, client_configuration=configuration)
        extra = await hook.get_conn_extras()
        chosen = {name.removeprefix("extra__kubernetes__") for name, value in extra.items() if value}
        if not chosen & {"in_cluster", "kube_config", "kube_config_path"} and _SERVICE_ACCOUNT.exists():
            hook.in_cluster = True  # the synchronous hook finds this out by itself, this one does not
        return await self._stack.enter_async_context(hook.get_conn())


def _pause(state: RetryCallState) -> float:
    """Ever longer, and scattered: what many wait for together, they do not ask all at once."""
    from tenacity import wait_exponential

    return wait_exponential(_SHORTEST_PAUSE, max=_LONGEST_PAUSE)(state) * random.uniform(0.7, 1.3)


def _imports() -> tuple[Any, Any]:
    """Half a second of imports, taken off the event loop."""
    from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook
    from kubernetes_asyncio import client

    return client, AsyncKubernetesHook


async def _lines(response: aiohttp.ClientResponse) -> AsyncGenerator[list[bytes]]:
    """The body's lines, of any length, as many at once as came together. Only one that is whole ends with a newline."""
    rest = b""
    async for chunk in response.content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        if lines:
            yield [line + b"\n" for line in lines]
    if rest:
        yield [rest]
