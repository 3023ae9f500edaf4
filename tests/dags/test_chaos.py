"""The DAGs of tests/chaos, in a real Airflow: what the ledger is read by is what they do."""

from airflow.dag_processing.dagbag import DagBag

from tests.chaos.faults import BURST
from tests.chaos.ledger import DAG, TASKS
from tests.chaos.placed import DAGS


def test_the_dags_of_chaos_load_and_have_the_tasks_that_the_ledger_is_read_for():
    bag = DagBag(DAGS)
    assert bag.import_errors == {}
    assert set(bag.dags) == {DAG, BURST}
    ledger = bag.dags[DAG]
    assert sorted(ledger.task_ids) == sorted(TASKS)
    assert {tuple(task.needs) for task in ledger.tasks} == {("s3",)}
    assert ledger.get_task("last").upstream_task_ids == {"work_0", "work_1", "work_2"}
    assert len(bag.dags[BURST].tasks) == 60


def test_each_of_their_tasks_outlives_a_service_that_is_away_for_two_minutes():
    for dag in DagBag(DAGS).dags.values():
        for task in dag.tasks:
            waits = [task.retry_delay.total_seconds() * task.retry_exponential_backoff**n for n in range(task.retries)]
            assert sum(waits) > 300
