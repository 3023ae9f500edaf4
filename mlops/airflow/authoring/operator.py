"""The one operator of the platform's DAGs: a command of `mlops` in a pod of its own.

The worker creates the pod and defers at once; the trigger waits for the pod's end and ends the task.
"""

from __future__ import annotations

import inspect
import json
import os
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from mlops.airflow.internals.reports import ReportLink
from mlops.airflow.internals.task_metrics import TaskMetrics, count_failure
from mlops.airflow.platform import Platform
from mlops.airflow.pods.create import create_pod, delete_pod, end_earlier_tries
from mlops.airflow.pods.manifest import TaskTry, make_pod
from mlops.airflow.pods.trigger import PodTrigger
from mlops.needs import needs

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.sdk.definitions.mappedoperator import MappedOperator

# Should the triggerer be away when the time is up, the kubelet ends the pod, and after that Airflow the task.
_KUBELET_MARGIN = timedelta(minutes=1)
_AIRFLOW_MARGIN = timedelta(minutes=5)

_KUBERNETES_FIELDS = inspect.signature(KubernetesPodOperator.__init__).parameters.keys() - {
    "self",
    "kwargs",
    "arguments",
    "image",
    "kubernetes_conn_id",
    "do_xcom_push",
}


# Environment key: by size the queue of the workers that make its pods, as JSON. The chart tells it who reads DAG files,
# where values name such queues (airflow.taskSizes).
QUEUES = "MAESTRO_TASK_QUEUES"


class PodTask(KubernetesPodOperator):
    """Runs `arguments` in a pod made from the chart's template.

    image, size, identity: names that the chart declares; the size may be a template, such as one of a run's params. A
    size may have a queue of workers, which make its pods; one that is a template has the default queue. needs: what the
    container opens, by the names in mlops/needs.py. env: more environment for the container. report: the file for
    people that the command leaves in the task's folder of the reports bucket, to link to. start_timeout: how long the
    pod may wait for its start. What a pod is made of otherwise is the chart's to say, so the fields of
    KubernetesPodOperator for it are refused. Other options are those of any operator. Defaults that differ from
    Airflow's stand in the signature: from there they reach mapped tasks too, and a DAG's default_args override them.
    The task's result is the JSON object that the command hands back. Exit code 99 skips the task.
    """

    template_fields: Sequence[str] = ("arguments", "env", "size")
    template_fields_renderers: ClassVar[dict[str, str]] = {"env": "json"}
    ui_color = "#e7eefb"

    def __init__(
        self,
        *,
        arguments: Sequence[str],
        image: str = "task",
        size: str = "small",
        identity: str | None = None,
        needs: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        report: str | None = None,
        # A busy cluster may have to end other pods or add a node first; beyond this, somebody should look.
        start_timeout: timedelta = timedelta(minutes=10),
        # Nothing runs for ever. A task that needs longer says so.
        execution_timeout: timedelta | None = timedelta(hours=1),
        # What fails by chance (a node, a registry, the network) mostly works at the second try, nearly always at the
        # third.
        retries: int | None = 2,
        # After one minute a killed service is back; each further wait is twice as long, for what takes longer.
        retry_delay: timedelta | float = timedelta(minutes=1),
        retry_exponential_backoff: float = 2.0,
        do_xcom_push: bool = True,
        owner: str = "maestro",
        **options: Any,
    ) -> None:
        if refused := sorted(_KUBERNETES_FIELDS & options.keys()):
            raise AirflowException(
                f"task {options.get('task_id')}: {', '.join(refused)} refused: a DAG file names image, size and "
                "identity; anything else about pods belongs into the pod template (values of the airflow chart)"
            )
        super().__init__(
            image=image,
            arguments=list(arguments),
            execution_timeout=execution_timeout,
            retries=retries,
            retry_delay=retry_delay,
            retry_exponential_backoff=retry_exponential_backoff,
            do_xcom_push=do_xcom_push,
            owner=owner,
            **{**_queue_of(size), **options},
        )
        self.size = size
        self.identity = identity
        self.needs = needs
        self.env = dict(env or {})
        self.start_timeout = start_timeout
        if report is not None:
            self.operator_extra_links = (ReportLink(report),)
        self._created: Mapping[str, Any] | None = None

    def result(self, field: str) -> str:
        """The template of one field of this task's result, for an option of a later task."""
        return f"{{{{ ti.xcom_pull(task_ids='{self.task_id}')['{field}'] }}}}"

    def result_json(self, field: str) -> str:
        """The same as JSON, for an option that takes a map; an empty one where the result has no such field."""
        return f"{{{{ ti.xcom_pull(task_ids='{self.task_id}').get('{field}', {{}}) | tojson }}}}"

    def execute(self, context: Context) -> None:
        """Creates the pod and defers. Raises AirflowException with the cause where there can be no pod."""
        now, platform = time.time(), Platform.load()
        task, timeout = _task_try(context), self.execution_timeout
        pod = make_pod(
            platform,
            task,
            self.arguments,
            image=str(self.image),
            size=self.size,
            identity=self.identity,
            needs=self.needs,
            env=self.env,
            deadline=(timeout + _KUBELET_MARGIN).total_seconds() if timeout else None,
        )
        client = self.client.api_client
        if task.try_number > 1:
            end_earlier_tries(client, pod)
        self._created = pod
        create_pod(client, pod)
        self.log.info(
            "pod %s is created in namespace %s, the triggerer waits for its end", task.pod_name, platform.namespace
        )
        self.defer(
            trigger=PodTrigger(
                conn_id=str(self.kubernetes_conn_id),
                namespace=platform.namespace,
                name=task.pod_name,
                deferred_at=time.time(),
                start_by=now + self.start_timeout.total_seconds(),
                deadline=now + timeout.total_seconds() if timeout else None,
                push=self.do_xcom_push,
                resume=bool(self.outlets or self.on_success_callback or self.on_skipped_callback),
                metrics=TaskMetrics.of(context["ti"]).as_json(),
            ),
            method_name="resume",
            timeout=timeout + _AIRFLOW_MARGIN if timeout else None,
        )

    def resume(self, context: Context, event: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Ends a task on a worker, where only a worker can: outlets, callbacks, a failure that is not tried again."""
        if event["state"] == "failed":
            count_failure(context["ti"])
            raise AirflowFailException(event["cause"])
        result: Mapping[str, Any] | None = event["result"]
        if event["state"] == "skipped":
            if self.do_xcom_push:
                context["ti"].xcom_push("return_value", result)
            raise AirflowSkipException(event["cause"])
        return result

    def on_kill(self) -> None:
        """The worker is told to end while it creates the pod."""
        if self._created is not None:
            metadata = self._created["metadata"]
            delete_pod(self.client.api_client, metadata["namespace"], metadata["name"])


def task_pod(
    task_id: str,
    group: str,
    command: str,
    *,
    size: str = "small",
    image: str = "task",
    identity: str | None = None,
    timeout: timedelta | None = None,
    pool: str | None = None,
    retries: int | None = None,
    trigger_rule: str | None = None,
    outlets: Sequence[Any] | None = None,
    env: Mapping[str, str] | None = None,
    report: str | None = None,
    **options: Any,
) -> PodTask:
    """The task `python -m mlops GROUP COMMAND` with each of `options` as `--name value`.

    Options are templated. One that is None is left out, one that is a list is repeated for each item. For anything
    that an option cannot be named (it has the name of a parameter here), there is PodTask.
    """
    given: dict[str, Any] = {
        "execution_timeout": timeout,
        "pool": pool,
        "retries": retries,
        "trigger_rule": trigger_rule,
        "outlets": outlets,
        "report": report,
    }
    return PodTask(
        task_id=task_id,
        arguments=["python", "-m", "mlops", group, command, *_arguments(options)],
        image=image,
        size=size,
        identity=identity,
        needs=needs(group, command),
        env=env,
        **{name: value for name, value in given.items() if value is not None},
    )


def task_pods(
    task_id: str,
    group: str,
    command: str,
    *,
    each: str,
    of: PodTask,
    size: str = "small",
    at_once: int,
    timeout: timedelta,
    pool: str,
) -> MappedOperator:
    """A pod `python -m mlops GROUP COMMAND --<each>=<name>` for each name in the result of the task `of`.

    at_once: how many of a run are there at the same time. A deferred task counts for that, and not for the
    max_active_tasks of a DAG.
    """
    option = each.replace("_", "-")

    def arguments(name: str) -> list[str]:
        return ["python", "-m", "mlops", group, command, f"--{option}={name}"]

    return PodTask.partial(
        task_id=task_id,
        size=size,
        needs=needs(group, command),
        execution_timeout=timeout,
        pool=pool,
        max_active_tis_per_dagrun=at_once,
        **_queue_of(size),
    ).expand(arguments=of.output.concat().map(arguments))


def _queue_of(size: str) -> dict[str, str]:
    """The option `queue` of an operator for a size that has one."""
    queues: dict[str, str] = json.loads(os.environ.get(QUEUES, "{}"))
    return {"queue": queues[size]} if size in queues else {}


def _arguments(options: Mapping[str, Any]) -> list[str]:
    """Options as `--name=value`: one string each, so that a value that begins with a dash is not read as a name."""
    arguments = []
    for name, value in options.items():
        values = [] if value is None else value if isinstance(value, list | tuple) else [value]
        arguments += [f"--{name.replace('_', '-')}={item}" for item in values]
    return arguments


def _task_try(context: Context) -> TaskTry:
    ti = context["ti"]
    return TaskTry(
        dag_id=ti.dag_id,
        task_id=ti.task_id,
        run_id=ti.run_id,
        map_index=-1 if ti.map_index is None else ti.map_index,
        try_number=ti.try_number,
        uuid=str(ti.id),
    )
