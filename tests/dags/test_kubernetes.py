"""The operator against a real API server, whose rights, admission, uids, versions and graces decide here."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.sdk.exceptions import AirflowException
from airflow.triggers.base import TaskFailedEvent, TaskSuccessEvent
from kubernetes.client.exceptions import ApiException

from mlops.airflow.authoring.operator import PodTask
from mlops.airflow.pods import create, state
from mlops.airflow.pods import log as pod_log
from mlops.airflow.pods.api import ApiError, JsonObject, PodApi
from mlops.airflow.pods.manifest import TRY
from mlops.airflow.pods.trigger import PodTrigger
from tests.charts.conftest import find, render
from tests.dags.test_operator import context, deferred
from tests.dags.test_trigger import at_work
from tests.kube_apiserver import KubeApiserver, Namespace, call

AIRFLOW = "maestro-airflow"  # its service account and its Role
PLACEHOLDER = "the-namespace-of-the-test"


@cache
def rendered() -> str:
    """Airflow's chart, once for all tests, as JSON in which each one puts its own namespace."""
    return json.dumps(render("airflow", namespace=PLACEHOLDER))


@pytest.fixture
def kubernetes(kube_apiserver: KubeApiserver, pod_config: Path, monkeypatch: pytest.MonkeyPatch) -> Namespace:
    """A namespace with what Airflow's chart puts there for tasks, and Airflow's connection with its own rights."""
    namespace = kube_apiserver.namespace()
    objects = json.loads(rendered().replace(PLACEHOLDER, namespace.namespace))
    namespace.grant(objects)
    for file, text in find(objects, "ConfigMap", "maestro-airflow-pods")["data"].items():
        (pod_config / file).write_text(text)
    extra = {"kube_config": json.dumps(namespace.kubeconfig(AIRFLOW))}
    monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", json.dumps({"conn_type": "kubernetes", "extra": extra}))
    monkeypatch.setattr(pod_log, "_PATIENCE", 0.0)  # there is no kubelet to read a log from
    return namespace


def begun(of: dict[str, Any] | None = None) -> PodTrigger:
    """The trigger that waits for the pod which a worker has just created."""
    trigger = deferred(PodTask(task_id="t", arguments=["true"]), of or context()).trigger
    assert isinstance(trigger, PodTrigger)
    return trigger


def made_anew(kubernetes: Namespace, name: str) -> None:
    """Somebody forces the pod out and creates it again from its own manifest."""
    pod = kubernetes.pods[name]
    kubernetes.remove(name)
    metadata = {key: pod["metadata"][key] for key in ("name", "labels", "annotations")}
    spec = {key: value for key, value in pod["spec"].items() if key != "nodeName"}
    kubernetes.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})


# Rights


def test_the_role_is_what_the_operator_asks_for(kubernetes: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    first = context()
    begun(first)
    begun(first)  # finds its pod there
    trigger = begun(context(try_number=2))

    async def story() -> None:
        async with at_work(kubernetes, trigger, monkeypatch) as run:
            kubernetes.run(trigger.name)
            await run.until(lambda: ("get", "pods/log") in kubernetes.requests(AIRFLOW))
            kubernetes.exit(trigger.name)
            assert isinstance(await run.event(), TaskSuccessEvent)

    asyncio.run(story())
    assert kubernetes.requests(AIRFLOW) == kubernetes.granted(AIRFLOW)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/v1/namespaces/{}/secrets"),
        ("GET", "/api/v1/namespaces/{}/configmaps"),
        ("POST", "/api/v1/namespaces/{}/pods/any/exec"),
        ("POST", "/api/v1/namespaces/{}/serviceaccounts/maestro-airflow/token"),
        ("DELETE", "/api/v1/namespaces/{}/pods"),
        ("GET", "/api/v1/namespaces/default/pods"),
        ("GET", "/api/v1/pods"),
    ],
)
def test_airflow_may_do_nothing_else(kubernetes: Namespace, method: str, path: str) -> None:
    with pytest.raises(ApiException) as refused:
        call(kubernetes.client(AIRFLOW), method, path.format(kubernetes.namespace))
    assert refused.value.status == 403


# Admission


@pytest.mark.parametrize(
    "field",
    [
        ("spec", "securityContext", "runAsNonRoot"),
        ("spec", "securityContext", "seccompProfile"),
        ("spec", "containers", 0, "securityContext", "allowPrivilegeEscalation"),
        ("spec", "containers", 0, "securityContext", "capabilities"),
    ],
    ids=lambda field: field[-1],
)
def test_a_pod_that_pod_security_refuses_fails_its_task_in_the_servers_words(
    kubernetes: Namespace, pod_config: Path, monkeypatch: pytest.MonkeyPatch, field: tuple[Any, ...]
) -> None:
    monkeypatch.setattr(create, "_PATIENCE", 0.0)
    template = pod_config / "pod-template.yaml"
    pod = holder = yaml.safe_load(template.read_text())
    for key in field[:-1]:
        holder = holder[key]
    del holder[field[-1]]
    template.write_text(yaml.safe_dump(pod))
    with pytest.raises(
        AirflowException, match=f'refused the pod: 403: .*violates PodSecurity "restricted.*{field[-1]}'
    ):
        begun()
    assert kubernetes.pods == {}


# Names and uids


def test_repeating_a_create_adopts_the_tries_own_pod_and_no_other(kubernetes: Namespace) -> None:
    of = context()
    name = begun(of).name
    assert begun(of).name == name
    assert list(kubernetes.pods) == [name]
    call(kubernetes.admin, "PATCH", kubernetes.path(f"pods/{name}"), {"metadata": {"labels": {TRY: "another"}}})
    with pytest.raises(AirflowException, match="is not of this try"):
        begun(of)


def test_a_pod_that_is_made_anew_under_its_name_is_not_the_one_that_was_waited_for(
    kubernetes: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    trigger = begun()

    async def story() -> None:
        async with at_work(kubernetes, trigger, monkeypatch) as run:
            kubernetes.run(trigger.name)
            await run.until(lambda: ("watch", "pods") in kubernetes.requests(AIRFLOW))
            made_anew(kubernetes, trigger.name)
            kubernetes.run(trigger.name)
            kubernetes.exit(trigger.name, 0)
            assert "was deleted before the end" in await run.failed()

    asyncio.run(story())


def test_a_pod_is_deleted_by_its_uid_and_not_by_its_name(kubernetes: Namespace) -> None:
    name = begun().name
    first = kubernetes.pods[name]["metadata"]["uid"]
    made_anew(kubernetes, name)
    second = kubernetes.pods[name]["metadata"]["uid"]

    async def story() -> None:
        api = PodApi("kubernetes_default", kubernetes.namespace)
        await api.delete(name, first)
        assert kubernetes.pods[name]["metadata"]["uid"] == second
        await api.delete(name, second)
        assert kubernetes.pods == {}
        await api.delete(name, second)
        await api.close()

    asyncio.run(story())


# Versions


@pytest.mark.parametrize("replaced", [False, True], ids=["ended", "made anew"])
def test_what_a_watch_missed_whose_version_has_expired_is_found_by_a_new_list(
    kubernetes: Namespace, monkeypatch: pytest.MonkeyPatch, replaced: bool
) -> None:
    trigger, refusals = begun(), []
    watched = PodApi.watch

    async def story() -> None:
        listed, go_on = asyncio.Event(), asyncio.Event()

        async def late(self: PodApi, selector: str, version: str) -> AsyncGenerator[JsonObject]:
            listed.set()
            await go_on.wait()
            try:
                async with aclosing(watched(self, selector, version)) as events:
                    async for event in events:
                        yield event
            except ApiError as error:
                refusals.append(error.status)
                raise

        monkeypatch.setattr(PodApi, "watch", late)
        async with at_work(kubernetes, trigger, monkeypatch) as run:
            await listed.wait()
            if replaced:
                made_anew(kubernetes, trigger.name)
            kubernetes.run(trigger.name)
            kubernetes.exit(trigger.name, 0, '{"a": 1}')
            kubernetes.server.compact()
            go_on.set()
            if replaced:
                assert "was deleted before the end" in await run.failed()
            else:
                assert isinstance(await run.event(), TaskSuccessEvent)
                assert run.xcoms == {"return_value": {"a": 1}}

    asyncio.run(story())
    assert refusals == [410]


# Deletion and its grace


@pytest.mark.parametrize(("before", "event"), [(10, TaskSuccessEvent), (0, TaskFailedEvent)])
def test_exit_code_0_counts_only_where_it_came_before_the_pods_deletion(
    kubernetes: Namespace, monkeypatch: pytest.MonkeyPatch, before: float, event: type
) -> None:
    trigger = begun()

    async def story() -> None:
        async with at_work(kubernetes, trigger, monkeypatch) as run:
            kubernetes.run(trigger.name)
            kubernetes.terminate(trigger.name)
            kubernetes.exit(trigger.name, 0, '{"half": "done"}', finished=time.time() - before)
            assert isinstance(await run.event(), event)
            assert ("return_value" in run.xcoms) == (event is TaskSuccessEvent)

    asyncio.run(story())


def test_a_second_try_begins_when_the_first_ones_pod_has_ended(kubernetes: Namespace) -> None:
    first = begun().name
    kubernetes.run(first)
    with ThreadPoolExecutor() as pool:
        second = pool.submit(begun, context(try_number=2))
        kubernetes.wait_for(lambda: "deletionTimestamp" in kubernetes.pods[first]["metadata"])
        assert list(kubernetes.pods) == [first]
        kubernetes.remove(first)
        name = second.result().name
    assert list(kubernetes.pods) == [name]


def test_a_try_does_not_begin_beside_an_earlier_one_that_does_not_end(
    kubernetes: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(create, "_FENCE", 0.5)
    first = begun().name
    kubernetes.run(first)
    with pytest.raises(AirflowException, match=f"pods of an earlier try still run: .* delete pod {first}"):
        begun(context(try_number=2))
    assert list(kubernetes.pods) == [first]


def test_a_pod_whose_node_does_not_confirm_its_end_is_forced_out(
    kubernetes: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = begun().name
    kubernetes.run(first)
    kubernetes.terminate(first, 1)
    monkeypatch.setattr(state, "_UNREACHABLE_AFTER", 0.0)
    second = begun(context(try_number=2)).name
    assert list(kubernetes.pods) == [second]


def test_a_kept_pod_of_a_failed_try_stays(kubernetes: Namespace) -> None:
    first = begun().name
    kubernetes.run(first)
    kubernetes.status(first, phase="Failed")
    second = begun(context(try_number=2)).name
    assert set(kubernetes.pods) == {first, second}
