"""An executor whose tasks have ended when they are asked for: what is left is the scheduler's own work."""

from collections.abc import Sequence

from airflow.executors.base_executor import BaseExecutor
from airflow.executors.workloads import ExecuteTask
from airflow.utils.session import create_session
from sqlalchemy import text

# As the triggerer ends a task here: its row says so, whatever the executor says later.
_END = text(
    "update task_instance set state = 'success', start_date = now(), end_date = now(), duration = 0 "
    "where id = any(cast(:ids as uuid[])) and state = 'queued'"
)


class AtOnce(BaseExecutor):
    """Ends each task by one statement for all that the scheduler hands over in a loop, and says so, as Celery does."""

    def _process_workloads(self, workload_items: Sequence[object]) -> None:
        tasks = [item.ti for item in workload_items if isinstance(item, ExecuteTask)]
        for task in tasks:
            del self.queued_tasks[task.key]
        with create_session() as session:
            session.execute(_END, {"ids": [str(task.id) for task in tasks]})
        for task in tasks:
            self.success(task.key)

    def end(self) -> None:
        """Nothing is under way."""

    def terminate(self) -> None:
        """Nothing is under way."""
