"""What Maestro adds to Airflow's processes.

The api-server shows reports (`internals.reports`) and is guarded (`guard`). What clears tasks, and the scheduler, are
patched (`internals.patches`). What has a loop tells the kubelet whether it goes round (`internals.liveness`). No task
logs a secret of the process that it runs in (`internals.masks`). The processes that fork import the operator before
they do: importing KubernetesPodOperator takes half a second, which each task and each parse of a DAG file would spend
anew in its own forked process. Imported once in the parent, it costs them nothing.
That needs [core] lazy_load_plugins = False, which the chart sets: otherwise Airflow loads plugins only where something
asks for one.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from airflow.plugins_manager import AirflowPlugin

# The components whose child processes need it. The others, such as the api-server, would only hold its 60 MB.
_MODULES = {
    "scheduler": ("mlops.airflow.authoring.operator",),
    "celery": ("mlops.airflow.authoring.operator",),
    "dag-processor": ("mlops.airflow.authoring.operator",),
    "triggerer": ("mlops.airflow.pods.trigger", "airflow.providers.cncf.kubernetes.hooks.kubernetes"),
}
# Names by which the database of an earlier release knows what the triggerer runs: the triggers of tasks that wait, and
# what is called when a run misses its deadline.
_FORMER_NAMES = {
    "mlops.airflow.trigger": "mlops.airflow.pods.trigger",
    "mlops.airflow.alerts": "mlops.airflow.authoring.alerts",
}
# The components that clear tasks, two of them by the command line.
_CLEARING = ("api-server", "scheduler", "tasks", "dags")
# The components whose loop the kubelet asks for, and what notes its beats.
_BEATING = {
    "scheduler": "note_jobs",
    "dag-processor": "note_jobs",
    "triggerer": "note_jobs",
    "celery": "note_worker",
}


class MaestroPlugin(AirflowPlugin):
    """Masks, shows reports, patches, preloads, and knows former names."""

    name = "maestro"

    @classmethod
    def on_load(cls, *args: Any, **kwargs: Any) -> None:
        from mlops.airflow.internals import masks

        masks.mask_environment()
        started = component(sys.argv)
        if started == "api-server":
            from mlops.airflow.guard import middlewares
            from mlops.airflow.internals.reports import PREFIX, application

            cls.fastapi_root_middlewares = middlewares()
            cls.fastapi_apps = [{"app": application(), "url_prefix": PREFIX, "name": "Maestro reports"}]
        if started in _CLEARING:
            from mlops.airflow.internals import patches

            patches.apply()
            if started == "scheduler":
                patches.apply_to_scheduler()
        if started in _BEATING:
            from mlops.airflow.internals import liveness

            liveness.watch(getattr(liveness, _BEATING[started]))
        for module in _MODULES.get(started, ()):
            importlib.import_module(module)
        if started == "triggerer":
            for former, name in _FORMER_NAMES.items():
                sys.modules[former] = importlib.import_module(name)


def component(argv: list[str]) -> str:
    """The Airflow component that a command line starts: its first word after the program's name."""
    return argv[1] if len(argv) > 1 else ""
