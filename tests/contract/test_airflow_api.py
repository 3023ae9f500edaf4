"""What the platform asks Airflow's API for is what Airflow's own description of it says that there is."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from mlops.config import AirflowSettings
from mlops.stores.airflow import Airflow
from tests.unit import airflow_api
from tests.unit.airflow_api import NOW, AirflowApi
from tests.unit.trainer_api import serving

PACKAGE = Path(next(iter(find_spec("airflow").submodule_search_locations)))
FILE = PACKAGE / "api_fastapi/core_api/openapi/v2-rest-api-generated.yaml"
RANGE = {"end_date_gte": "2026-01-01T00:00:00Z", "end_date_gt": "2026-01-01T00:00:00Z"}


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    found: dict[str, Any] = yaml.load(FILE.read_text(), yaml.CSafeLoader)
    return found


@pytest.fixture(scope="module")
def asked() -> list[str]:
    """The addresses that the store asks for, with all that its callers ask by."""
    with serving() as api:
        stand_in = AirflowApi(api)
        stand_in.dag("d", "a", "b")
        run = stand_in.run("d", "failed", NOW)
        stand_in.task("d", run, "a", "failed", NOW, cause="c", node="n")
        airflow = Airflow(AirflowSettings(api.url, "monitoring", "none"), timeout=240, patience=30)
        airflow.dags()
        after = {"run_after_gte": "2026-01-01T00:00:00Z", "run_after_gt": "2026-01-01T00:00:00Z"}
        for order in ("run_after", "-run_after"):
            airflow.runs("~", {**after, "state": ["queued", "running"], "order_by": order, "limit": 1, "offset": 0})
        instances = {"state": ["failed"], "task_id": "a", "pool": "default_pool", "limit": 1, "offset": 0}
        for order in ("end_date", "-end_date", "-duration"):
            airflow.task_instances("d", "~", {**RANGE, **instances, "order_by": order})
        (task,) = airflow.task_instances("~", "~", {}).entries
        airflow.xcom(task, "failure")
        airflow.events(task)
        airflow.upstream("d")
        airflow.pools()
        airflow.import_errors()
        airflow.health()
        return [path.removeprefix("/api/v2") for method, path, *_ in api.asked if method == "GET"]


def operation(described: dict[str, Any], path: str) -> dict[str, Any]:
    """What Airflow says of a GET of the path."""
    for template, methods in described["paths"].items():
        pattern = re.sub(r"\{[^}]+\}", "[^/]+", template.removeprefix("/api/v2"))
        if "get" in methods and re.fullmatch(pattern, path):
            found: dict[str, Any] = methods["get"]
            return found
    pytest.fail(f"Airflow has no {path}")


def test_every_path_and_every_filter_is_one_that_airflow_has(described: dict[str, Any], asked: list[str]) -> None:
    assert len(asked) > 10
    for each in asked:
        parts = urlsplit(each)
        known = {parameter["name"] for parameter in operation(described, parts.path).get("parameters", ())}
        assert parse_qs(parts.query).keys() <= known, each


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("DAGRunResponse", "runs"),
        ("TaskInstanceResponse", "task_instances"),
        ("DAGResponse", "dags"),
        ("PoolResponse", "pools"),
    ],
)
def test_what_the_stand_in_of_the_tests_shows_airflow_shows_as_well(
    described: dict[str, Any], name: str, entry: str
) -> None:
    with serving() as api:
        stand_in = AirflowApi(api)
        stand_in.dag("d", "a")
        stand_in.task("d", stand_in.run("d", "failed", NOW), "a", "failed", NOW)
        stand_in.pool("p", 1, 1)
    (shown,) = getattr(stand_in, entry)
    assert shown.keys() <= described["components"]["schemas"][name]["properties"].keys()
    assert set(airflow_api.COMPONENTS) <= described["components"]["schemas"]["HealthInfoResponse"]["properties"].keys()
