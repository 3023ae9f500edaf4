"""The link on a task that writes a report, and the page behind it."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG
from fastapi.testclient import TestClient

from mlops import keys
from mlops.airflow.authoring.operator import task_pod
from mlops.airflow.internals import reports
from mlops.airflow.internals.reports import ReportLink, application

RUN = "manual__2026-01-01T02:00:00+00:00"
TASK = SimpleNamespace(dag_id="data_validation_pipeline", run_id=RUN, task_id="generate_report", map_index=-1)
PATH = "/data_validation_pipeline/manual__2026-01-01T02%3A00%3A00%2B00%3A00/generate_report/-1/report.html"


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The objects of the reports bucket by key."""
    objects: dict[str, bytes] = {}
    monkeypatch.setattr(reports, "_read", objects.get)
    return objects


@pytest.fixture
def client() -> TestClient:
    return TestClient(application())


@pytest.fixture
def login(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A function that gives the cookie of a user in a role of Airflow."""
    from airflow.api_fastapi.app import create_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from airflow.models.dag import DagModel
    from airflow.models.revoked_token import RevokedToken

    monkeypatch.setenv("AIRFLOW__API_AUTH__JWT_SECRET", "a secret of the tests, long enough for each signature " * 2)
    # There is no database here.
    monkeypatch.setattr(DagModel, "get_team_name", lambda dag_id: None)
    monkeypatch.setattr(RevokedToken, "is_revoked", lambda token: False)
    manager: Any = create_auth_manager()
    return lambda role: {"_token": manager.generate_jwt(SimpleAuthManagerUser(username="somebody", role=role))}


def test_the_link_leads_to_the_file_that_the_pod_writes(stored: dict[str, bytes]) -> None:
    assert ReportLink("report.html").get_link(None, ti_key=TASK) == f"/reports{PATH}"


def test_the_link_respects_a_path_in_airflows_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://ml.example.com/airflow/")
    assert ReportLink("report.html").get_link(None, ti_key=TASK) == f"/airflow/reports{PATH}"


def test_a_task_has_the_link_only_where_it_writes_a_report() -> None:
    with DAG("d"):
        with_report = task_pod("a", "data-quality", "report", report="report.html", dataset="shuttle")
        without = task_pod("b", "drift", "compare", dataset="shuttle")
    assert [link.name for link in with_report.operator_extra_links] == ["Report"]
    assert "--report=report.html" not in with_report.arguments
    assert not without.operator_extra_links


def test_a_report_is_shown_to_whom_may_see_the_dag(stored, client, login) -> None:
    stored[f"{keys.task_instance(TASK.dag_id, RUN, TASK.task_id)}/report.html"] = b"<html>drift</html>"
    client.cookies.update(login("viewer"))
    answer = client.get(PATH)
    assert (answer.status_code, answer.text) == (200, "<html>drift</html>")
    assert answer.headers["Content-Type"].startswith("text/html")
    assert "allow-same-origin" not in answer.headers["Content-Security-Policy"]
    assert answer.headers["Content-Security-Policy"].startswith("sandbox")


def test_a_report_is_not_shown_to_a_stranger(stored, client, login) -> None:
    stored[f"{keys.task_instance(TASK.dag_id, RUN, TASK.task_id)}/report.html"] = b"<html>drift</html>"
    assert client.get(PATH).status_code == 401
    assert client.get(PATH, headers={"Authorization": "Bearer nonsense"}).status_code in (401, 403)


def test_a_report_that_is_not_written_is_said_so(stored, client, login) -> None:
    client.cookies.update(login("viewer"))
    answer = client.get(PATH)
    assert answer.status_code == 404
    assert "generate_report" in answer.text
    assert "has left no report.html" in answer.text


def test_no_path_leaves_the_folder_of_the_task(stored, client, login) -> None:
    stored["secret.html"] = b"secret"
    client.cookies.update(login("viewer"))
    answer = client.get(PATH.replace("report.html", "..%2F..%2F..%2Fsecret.html"))
    assert answer.status_code == 404


@pytest.mark.parametrize(
    "file", ["..%2freport.html", "a%2f..%2fb", ".", "a%2f", "a%00b", "a%0ab", "x" * 3000, "ü" * 600]
)
def test_what_no_object_can_be_called_is_not_there_and_the_store_not_asked(
    monkeypatch: pytest.MonkeyPatch, client: TestClient, login: Any, file: str
) -> None:
    def refusing(key: str) -> bytes:
        raise AssertionError(f"the store was asked for {key}")

    monkeypatch.setattr(reports, "_read", refusing)
    client.cookies.update(login("viewer"))
    assert client.get(PATH.replace("report.html", file)).status_code == 404
    assert client.get(PATH.replace("/-1/", f"/{file}/")).status_code in (404, 422)
