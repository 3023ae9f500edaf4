"""What DAG files ask for is what the command line, the images and the charts offer."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.sdk.definitions.mappedoperator import MappedOperator
from jinja2 import Environment

from mlops.airflow.authoring.operator import PodTask
from mlops.cli import parser
from tests.charts.images import RECIPES

ROOT = Path(__file__).parents[2]
VALUES = yaml.safe_load((ROOT / "charts/airflow/values.yaml").read_text())
# As the dag-processor reads them: the folder is on Python's path.
DAGS = BundleDagBag(ROOT / "dags", bundle_path=ROOT / "dags", bundle_name="dags")


def tasks() -> Iterator[PodTask]:
    for dag in DAGS.dags.values():
        for task in dag.tasks:
            if isinstance(task, PodTask):
                yield task
            elif isinstance(task, MappedOperator) and issubclass(task.operator_class, PodTask):
                yield one_of(task)


def one_of(mapped: MappedOperator) -> PodTask:
    """What Airflow makes of a mapped task for an entry of the result that it is mapped over."""
    (arguments,) = mapped.expand_input.value.values()
    result = {"2026-01-01-0123456789ab/0x524288": 10}
    context = {"ti": SimpleNamespace(xcom_pull=lambda **_: result, task=None), "run_id": "r", "expanded_ti_count": 1}
    (value,) = list(arguments.resolve(context))
    task: PodTask = mapped.unmap({"arguments": value})
    return task


TASKS = [pytest.param(task, id=f"{task.dag_id}.{task.task_id}") for task in tasks()]


def test_there_are_pods_to_check() -> None:
    assert not DAGS.import_errors
    assert len(TASKS) >= 12


@pytest.mark.parametrize("task", TASKS)
def test_a_pods_arguments_parse_with_the_real_command_line(
    task: PodTask, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert task.arguments[:3] == ["python", "-m", "mlops"]
    options = [rendered(argument) for argument in task.arguments[3:]]
    try:
        parser().parse_args(options)
    except SystemExit:
        pytest.fail(f"{' '.join(options)}: {capsys.readouterr().err}")


RENDERED = {
    "--epochs": "10",
    "--gpu": "true",
    "--end": "2026-01-01T00:00:00+00:00",
    "--metrics": "{}",
    "--minimum-new-readings": "None",
    "--partition-rows": "10",
    "--states": "{}",
    "--written": "2026-01-01T00:00:00+00:00",
}


def rendered(argument: str) -> str:
    """The argument with a value in place of each template: one that reads as a number, a truth and a time does not
    exist, so it is chosen by the option's name."""
    name, separator, value = argument.partition("=")
    if "{{" not in value and "{%" not in value:
        return argument
    return f"{name}{separator}{RENDERED.get(name, '0.5')}"


@pytest.mark.parametrize("task", TASKS)
def test_a_pods_image_is_built_here_and_is_declared(task: PodTask) -> None:
    assert task.image in RECIPES
    assert task.image in VALUES["taskPods"]["images"]


def sizes(task: PodTask) -> list[str]:
    """Those that a size may become: one, or the two that a parameter of the run decides between."""
    template = Environment(autoescape=True).from_string(task.size)
    return [template.render(params={"gpu": gpu}) for gpu in (False, True)]


@pytest.mark.parametrize("task", TASKS)
def test_a_pods_size_and_identity_are_declared(task: PodTask) -> None:
    assert set(sizes(task)) <= VALUES["taskSizes"].keys()
    assert task.identity is None or task.identity in VALUES["taskPods"]["identities"]


@pytest.mark.parametrize("task", TASKS)
def test_a_tasks_pool_is_declared_and_counts_deferred_tasks(task: PodTask) -> None:
    if task.pool != "default_pool":
        assert VALUES["pools"][task.pool]["include_deferred"] is True


def test_a_mapped_pod_is_told_a_name_of_the_result_that_it_is_mapped_over() -> None:
    score = DAGS.dags["ml_pipeline"].get_task("run_inference")
    assert one_of(score).arguments[3:] == ["inference", "score", "--partition=2026-01-01-0123456789ab/0x524288"]
