"""Each Variable, Connection and pool that values declare is used by what runs, and each that is used is declared."""

import ast
import re
from collections.abc import Iterator
from typing import Any

from tests.contract.test_pods import DAGS, ROOT, VALUES

# What runs. A check of settings is no use of them.
CODE = [
    path
    for folder in ("mlops", "dags")
    for path in (ROOT / folder).rglob("*.py")
    if not path.is_relative_to(ROOT / "mlops/airflow/administration")
]


def nodes() -> Iterator[ast.AST]:
    for path in CODE:
        yield from ast.walk(ast.parse(path.read_text()))


def tasks() -> Iterator[Any]:
    for dag in DAGS.dags.values():
        yield from dag.tasks


def in_templates(accessor: str) -> set[str]:
    """The names after `accessor.` in what Airflow renders for the tasks of all DAGs."""
    rendered = [
        # A mapped task has those fields only that are not mapped.
        str(getattr(task, field, None))
        for task in tasks()
        for field in task.template_fields
    ]
    return set(re.findall(rf"\b{re.escape(accessor)}\.(\w+)", " ".join(rendered)))


def asked_for(kind: str) -> set[str]:
    """The names that code gives to `kind.get(...)`; one that is no literal could not be compared."""
    names = [
        node.args[0]
        for node in nodes()
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(f"{kind}.get") and node.args
    ]
    assert all(isinstance(name, ast.Constant) for name in names), [ast.unparse(name) for name in names]
    return {str(ast.literal_eval(name)) for name in names}


def test_the_variables_that_are_declared_are_those_that_tasks_and_alerts_read() -> None:
    read = in_templates("var.value") | in_templates("var.json") | asked_for("Variable")
    assert read == VALUES["variables"].keys()


def test_the_connections_that_are_declared_are_those_that_airflow_opens() -> None:
    of_configuration = {
        value for section in VALUES["config"].values() for key, value in section.items() if key.endswith("conn_id")
    }
    of_operators = {task.kubernetes_conn_id for task in tasks() if hasattr(task, "kubernetes_conn_id")}
    of_code = {
        node.value
        for node in nodes()
        if isinstance(node, ast.Constant) and re.fullmatch(r"[a-z]+_default", str(node.value))
    }
    opened = of_configuration | of_operators | of_code | in_templates("conn") | asked_for("Connection")
    assert opened == VALUES["connections"].keys()


def test_the_pools_that_are_declared_are_those_that_tasks_wait_for() -> None:
    assert {task.pool for task in tasks()} - {"default_pool"} == VALUES["pools"].keys()
