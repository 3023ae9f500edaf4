"""What dags/README.md shows is true."""

import re
from pathlib import Path

from airflow.dag_processing.dagbag import DagBag

from mlops.cli import parser

README = Path(__file__).parents[2] / "dags/README.md"


def test_the_first_dag_of_the_readme_is_a_dag(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    (tmp_path / "first_dag.py").write_text(example)
    found = DagBag(tmp_path)
    assert found.import_errors == {}
    (dag,) = found.dags.values()
    assert [task.task_id for task in dag.topological_sort()] == ["download", "validate"]
    for task in dag.tasks:
        parser().parse_args(task.arguments[3:])
