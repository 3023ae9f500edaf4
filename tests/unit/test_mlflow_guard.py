"""What stands before MLflow's server: images/mlflow, in front of the real one, as the chart starts it."""

import base64
import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

import mlflow
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.stores.object_store import bucket
from tests.security import inputs
from tests.servers import ACCESS_KEY, MLFLOW_PLUGIN, REGION, SECRET_KEY, MLflow

sys.path.insert(0, str(MLFLOW_PLUGIN))
from maestro_mlflow.application import users
from maestro_mlflow.guard import Guard, User
from maestro_mlflow.locations import is_own
from maestro_mlflow.routes import CLOSED, OPEN, READ, WRITE, Access, closed, needed

sys.path.remove(str(MLFLOW_PLUGIN))

WRITER, READER, NOBODY = MLflow.writer, MLflow.reader, {}
API = "/api/2.0/mlflow"
# Prints each route as `METHOD /path`, with {} for one part of a path and {path} for more.
ROUTES = """
import re
from mlflow.server import app as flask
from mlflow.server.fastapi_app import app
def plain(path):
    return re.sub(r"<path:\\w+>|{\\w+:path}", "{path}", re.sub(r"<\\w+>|{\\w+}", "{}", path))
for rule in flask.url_map.iter_rules():
    for method in rule.methods - {"HEAD", "OPTIONS"}:
        print(method, plain(rule.rule))
for route in app.routes:
    for method in getattr(route, "methods", None) or ():
        print(method, plain(route.path))
"""


class OnS3(MLflow):
    """Its artifacts lie in a bucket, as in the cluster."""

    place = "mlflow-behind-its-guard"

    def prepared(self) -> tuple[list[str], str]:
        command, url = super().prepared()
        command[command.index("--artifacts-destination") + 1] = f"s3://{self.place}"
        return command, url


@pytest.fixture
def on_s3(s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_endpoint)
    keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_DEFAULT_REGION": REGION}
    for name, value in {**keys, **WRITER, "MLFLOW_S3_ENDPOINT_URL": s3_endpoint}.items():
        monkeypatch.setenv(name, value)
    bucket(OnS3.place).ensure()
    with OnS3(tmp_path) as server:
        yield server.url


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    """Method and path of all that the server has that is installed."""
    folder = tmp_path_factory.mktemp("mlflow")
    environment = {
        **MLflow.environment,
        "PATH": "/usr/bin",
        "HOME": str(folder),
        "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{folder}/mlflow.db",
        "prometheus_multiproc_dir": str(folder),
    }
    told = subprocess.run([sys.executable, "-c", ROUTES], env=environment, capture_output=True, text=True, check=True)
    found = [tuple(line.split()) for line in told.stdout.splitlines() if line]
    assert len(found) > 400
    return found


def asked(
    url: str,
    user: Mapping[str, str] = NOBODY,
    body: object = None,
    method: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Status and text of an answer; a body that is no text is sent as JSON."""
    sent = dict(headers or {})
    if user:
        sent["Authorization"] = basic(user["MLFLOW_TRACKING_USERNAME"], user["MLFLOW_TRACKING_PASSWORD"])
    content = None if body is None else body.encode() if isinstance(body, str) else json.dumps(body).encode()
    if content is not None:
        sent.setdefault("Content-Type", "application/json")
    request = urllib.request.Request(url, content, sent, method=method)
    try:
        with urllib.request.urlopen(request, timeout=240) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


# ------------------------------------------------------------------------------------------ who gets in


def test_the_health_and_the_metrics_are_open_to_all_and_nothing_else_is(mlflow_uri, routes):
    assert asked(f"{mlflow_uri}/health")[0] == 200
    for method, path in routes:
        if (method, path) in OPEN:
            continue
        place = path.replace("{path}", "a/b").replace("{}", "1")
        refusal = Guard(None, []).refusal(method, place, [])
        assert refusal is not None and refusal.status == 401, (method, path)


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("writer", ""),
        ("", ""),
        ("writer", "wrong"),
        ("admin", WRITER["MLFLOW_TRACKING_PASSWORD"]),
        ("reader", WRITER["MLFLOW_TRACKING_PASSWORD"]),
        ("writer", f"{WRITER['MLFLOW_TRACKING_PASSWORD']} "),
        ("WRITER", WRITER["MLFLOW_TRACKING_PASSWORD"]),
    ],
)
def test_another_user_or_password_is_not_let_in_and_a_browser_asks_for_one(mlflow_uri, name, password):
    request = urllib.request.Request(f"{mlflow_uri}/version", headers={"Authorization": basic(name, password)})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request)
    assert refused.value.code == 401
    assert refused.value.headers["WWW-Authenticate"].startswith("Basic ")
    told = json.load(refused.value)
    assert told["error_code"] == "UNAUTHENTICATED"
    assert "MLFLOW_TRACKING_PASSWORD" in told["message"]


@pytest.mark.parametrize(
    "sent",
    [
        "Bearer abc",
        "Basic",
        "Basic !!!",
        "Basic " + base64.b64encode(b"writer").decode(),
        basic("writer", WRITER["MLFLOW_TRACKING_PASSWORD"]).lower(),
    ],
)
def test_what_is_no_user_and_password_is_not_let_in(mlflow_uri, sent):
    assert asked(f"{mlflow_uri}/version", headers={"Authorization": sent})[0] == 401


def test_files_in_a_bucket_go_through_the_server_as_its_clients_are_told(on_s3, tmp_path):
    """Its store can do more, which MLflow would tell them, and they would ask for what is closed."""
    told = json.loads(asked(f"{on_s3}/api/3.0/mlflow/server-info", WRITER)[1])
    assert {told["multipart_uploads_enabled"], told["multipart_downloads_enabled"]} == {False}
    client = mlflow.MlflowClient(on_s3)
    run_id = client.create_run(client.create_experiment("with files")).info.run_id
    (tmp_path / "model.bin").write_bytes(b"of the model")
    client.log_artifact(run_id, str(tmp_path / "model.bin"))
    (tmp_path / "back").mkdir()
    uri = f"runs:/{run_id}/model.bin"
    path = mlflow.artifacts.download_artifacts(uri, dst_path=str(tmp_path / "back"), tracking_uri=on_s3)
    assert Path(path).read_bytes() == b"of the model"


def test_two_users_in_one_request_are_none():
    guard = Guard(None, [User("writer", "w", Access.WRITER)])
    sent = (b"authorization", basic("writer", "w").encode())
    assert guard.refusal("GET", "/version", [sent]) is None
    assert guard.refusal("GET", "/version", [sent, (b"Authorization", b"Basic eDp5")]).status == 401


def test_both_users_get_in(mlflow_uri):
    for user in (WRITER, READER):
        assert asked(f"{mlflow_uri}/version", user) == (200, mlflow.__version__)
        assert asked(f"{mlflow_uri}/", user)[0] == 200


def test_a_reader_finds_what_a_writer_wrote_and_changes_nothing(mlflow_uri):
    name = uuid.uuid4().hex
    create = f"{mlflow_uri}{API}/experiments/create"
    status, told = asked(create, READER, {"name": name})
    assert (status, json.loads(told)["error_code"]) == (403, "PERMISSION_DENIED")
    assert "the user reader may only read" in told
    assert asked(create, WRITER, {"name": name})[0] == 200
    found = asked(f"{mlflow_uri}{API}/experiments/get-by-name?experiment_name={name}", READER)
    assert found[0] == 200
    status, told = asked(f"{mlflow_uri}{API}/experiments/search", READER, {"max_results": 10})
    assert status == 200, told


def test_a_page_of_another_origin_may_ask_what_it_may_send_but_send_nothing(mlflow_uri):
    headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    status, _ = asked(f"{mlflow_uri}{API}/experiments/create", method="OPTIONS", headers=headers)
    assert status in (200, 400, 403)
    assert asked(f"{mlflow_uri}{API}/experiments/create", method="OPTIONS")[0] == 401
    status, told = asked(f"{mlflow_uri}{API}/experiments/create", WRITER, {"name": "x"}, None, headers)
    assert status == 403 and "Cross-origin" in told


def test_a_server_without_a_password_does_not_start(monkeypatch):
    monkeypatch.setenv("TRACKING_WRITER_PASSWORD", "w")
    monkeypatch.setenv("TRACKING_READER_PASSWORD", "")
    with pytest.raises(RuntimeError, match="TRACKING_READER_PASSWORD is not set: give it the key reader-password"):
        users()
    monkeypatch.setenv("TRACKING_READER_PASSWORD", "r")
    assert users() == [User("writer", "w", Access.WRITER), User("reader", "r", Access.READER)]


# ------------------------------------------------------------------------------------------ which routes there are


def lines(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        if line:
            method, path = line.split()
            yield method, path


def test_each_route_of_the_installed_mlflow_is_open_or_closed_by_a_list(routes):
    """A new version's route makes this red: read what it does, then list it in maestro_mlflow/routes.py."""
    listed = {*OPEN, *lines(READ), *lines(WRITE)}
    unknown = {
        (method, path)
        for method, path in routes
        if (method, re.sub(r"^/ajax-api(?=/)", "/api", path)) not in listed and not closed(path)
    }
    assert unknown == set()


def test_each_list_names_only_what_the_installed_mlflow_has(routes):
    there = {(method, re.sub(r"^/ajax-api(?=/)", "/api", path)) for method, path in routes}
    assert {*lines(READ), *lines(WRITE)} - there == set()
    paths = {path for _, path in there}
    assert [beginning for beginning in CLOSED if not any(path.startswith(beginning) for path in paths)] == []


def test_what_a_reader_may_ask_for_by_post_is_a_search(routes):
    assert {path for method, path in lines(READ) if method != "GET"} == {
        "/graphql",
        f"{API}/experiments/search",
        f"{API}/experiments/search-datasets",
        f"{API}/logged-models/search",
        f"{API}/registered-models/get-latest-versions",
        f"{API}/runs/search",
        "/api/3.0/mlflow/datasets/search",
        "/api/3.0/mlflow/traces/batchGetInfos",
        "/api/3.0/mlflow/traces/calculate-filter-correlation",
        "/api/3.0/mlflow/traces/metrics",
        "/api/3.0/mlflow/traces/search",
    }
    from mlflow.server.graphql.graphql_schema_extensions import schema

    # GraphQL is open to readers: of its mutations the first two search, and the third echoes.
    assert set(schema.graphql_schema.mutation_type.fields) == {
        "mlflowSearchDatasets",
        "mlflowSearchRuns",
        "testMutation",
    }


@pytest.mark.parametrize("prefix", ["/api", "/ajax-api"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/2.0/mlflow-artifacts/mpu/create/1/a"),
        ("POST", "/2.0/mlflow-artifacts/mpu/complete/1/a"),
        ("POST", "/2.0/mlflow-artifacts/mpu/abort/1/a"),
        ("GET", "/2.0/mlflow-artifacts/presigned/1/a"),
        ("POST", "/2.0/mlflow/artifacts/presigned-download-url"),
        ("POST", "/2.0/mlflow/artifacts/presigned-upload-url"),
        ("POST", "/2.0/mlflow/gateway-proxy"),
        ("GET", "/2.0/mlflow/gateway-proxy"),
        ("POST", "/3.0/mlflow/gateway/secrets/create"),
        ("POST", "/2.0/mlflow/webhooks"),
        ("POST", "/3.0/mlflow/scorers/register"),
        ("POST", "/3.0/mlflow/assistant/message"),
        ("POST", "/3.0/jobs/"),
        ("POST", "/3.0/mlflow/mcp-servers"),
        ("POST", "/3.0/mlflow/traces"),
    ],
)
def test_what_hands_out_addresses_sends_requests_or_runs_code_is_closed_to_the_writer_too(
    mlflow_uri, prefix, method, path
):
    status, told = asked(f"{mlflow_uri}{prefix}{path}", WRITER, None if method == "GET" else {}, method)
    assert status == 403
    assert f"{method} {prefix}{path} is closed here: " in json.loads(told)["message"]


BODIES = [
    *("[]", '"x"', "null", "{", "1", "[1]", '"{}"', "[" * 2000, '{"a":' * 200 + "1" + "}" * 200, "\xff"),
    *('{"max_results": 1e400}', '{"max_results": 99999999999999999999}', '{"max_results": -1, "page_token": "%%%"}'),
    '{"name": "\\u0000", "run_id": "\\u0000", "key": "\\u0000", "value": "x", "source": "runs:/a/b"}',
    '{"name": "\\ud800", "run_id": "\\ud800"}',
    '{"name": 1, "experiment_id": [], "run_id": {}, "source": 5, "query": 5}',
    '{"experiment_id": "99999999999999999999", "experiment_ids": ["2147483648"], "name": "a", "run_id": "a"}',
]
QUERIES = [
    *("max_results=x", "run_id=%00", "name=%ff", "page_token=%25%25", f"name={'x' * 3000}", "run_uuid=x&path=%00"),
    *("experiment_id=99999999999999999999999999", "experiment_id=-1&max_results=-1", "path=..%2f..&run_id=x"),
]


@pytest.mark.parametrize(("method", "path"), sorted({*lines(READ), *lines(WRITE)}))
def test_no_input_is_a_fault_of_the_server(mlflow_uri, method, path):
    place = mlflow_uri + path.replace("{path}", "a/b").replace("{}", "1")
    for said in QUERIES if method == "GET" else BODIES:
        answer = asked(f"{place}?{said}", WRITER) if method == "GET" else asked(place, WRITER, said, method)
        assert answer[0] < 500, (said[:80], answer)


def test_what_the_running_platform_is_asked_is_taken_for_bad_and_is_no_fault_of_the_server(on_s3):
    writer = basic(WRITER["MLFLOW_TRACKING_USERNAME"], WRITER["MLFLOW_TRACKING_PASSWORD"])
    assert inputs.faults(inputs.sent(on_s3, inputs.mlflow(), {"Authorization": writer})) == []


def test_an_artifact_that_is_not_there_is_told_as_such(on_s3):
    status, told = asked(f"{on_s3}/api/2.0/mlflow-artifacts/artifacts/1/none/model.bin", READER)
    assert (status, json.loads(told)["error_code"]) == (404, "RESOURCE_DOES_NOT_EXIST")
    assert "there is no artifact" in told


@pytest.mark.parametrize(("path", "status"), [("a" * 256, 400), ("a" * 255, 404), ("ä" * 128, 400)])
def test_an_artifact_whose_name_no_file_can_have_is_refused(on_s3, path, status):
    found, told = asked(f"{on_s3}/api/2.0/mlflow-artifacts/artifacts/{quote(path)}", READER)
    assert found == status, told


@pytest.mark.parametrize("path", ["/gateway/mlflow/v1/models", "/gateway/proxy/x/y", "/v1/traces"])
def test_a_gateway_is_closed(mlflow_uri, path):
    for method in ("GET", "POST"):
        status, told = asked(f"{mlflow_uri}{path}", WRITER, {} if method == "POST" else None, method)
        assert status == 403 and "closed here" in told


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/2.0/mlflow/nothing", 404),
        ("/metrics/x", 404),
        ("/health/", 404),
        ("/docs", 404),
        ("//api/2.0/mlflow/webhooks", 400),
        ("/api//2.0/mlflow/webhooks", 400),
        ("/static-files/../api/2.0/mlflow/webhooks", 400),
        ("/static-files/%2e%2e/api/2.0/mlflow/webhooks", 400),
        ("/api/2.0/mlflow-artifacts/artifacts/..%2f..%2fetc", 400),
        ("/api/2.0/mlflow-artifacts/artifacts/a%5c..%5cb", 400),
        ("/api/2.0/mlflow/experiments/get%00", 400),
        ("/API/2.0/mlflow/experiments/search", 404),
        ("/api/2.0/mlflow-artifacts/mpu%2fcreate/a", 403),
        ("/api/2.0/mlflow/webhooks/", 403),
    ],
)
def test_a_path_that_is_in_no_list_or_may_be_read_as_another_is_not_let_through(mlflow_uri, path, status):
    for method in ("GET", "POST"):
        found, told = asked(f"{mlflow_uri}{path}", WRITER, {} if method == "POST" else None, method)
        assert found == status, told
        assert json.loads(told)["message"]


@given(st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "get", ""]), st.text(max_size=60))
def test_no_path_is_let_through_that_no_list_has(method, path):
    guard = Guard(None, [User("writer", "w", Access.WRITER)])
    sent = [(b"authorization", basic("writer", "w").encode())]
    if guard.refusal(method, f"/{path}", sent) is None:
        assert (method, f"/{path}") in OPEN or needed(method, f"/{path}") is not None


# ------------------------------------------------------------------------------------------ where artifacts lie


ELSEWHERE = [
    "s3://logs/dag_id=a",
    "s3://mlflow-other/a",
    "s3://mlflow.evil/a",
    "s3://mlflow@evil/a",
    "S3://logs/a",
    "file:///etc",
    "/etc",
    "etc",
    "..",
    "mlflow-artifacts://evil.example/1/a",
    "mlflow-artifacts:/../logs",
    "mlflow-artifacts:/1/%2e%2e/%252e%252e/logs",
    "http://evil.example/model",
    "https://evil.example/model",
    "ftp://evil.example/model",
    "dbfs:/a",
    "models:/a/../../b",
    "runs://evil/a",
    "s3://mlflow/../logs",
    "s3://mlflow/a/../../logs",
    "s3://mlflow/a?versionId=1",
    "s3://mlflow//a",
    "s3://mlflow/a\\..\\b",
    "s3://mlflow/\n",
    "mlflow-artifacts:/a#..",
    "sqlite:////tmp/x",
]


@pytest.mark.parametrize("location", ELSEWHERE)
def test_a_place_outside_of_the_bucket_is_none_of_the_server(location):
    assert not is_own(location, "s3://mlflow")


@pytest.mark.parametrize(
    "location",
    [
        "s3://mlflow",
        "s3://mlflow/1/abc/artifacts/model",
        "mlflow-artifacts:/1/abc/artifacts/model",
        "models:/m-0123",
        "models:/sensor-failure/3",
        "runs:/0123/model",
        "mlflow-artifacts:/1/a..b/c",
    ],
)
def test_a_place_in_the_bucket_or_one_that_is_looked_up_is_the_servers(location):
    assert is_own(location, "s3://mlflow")


@given(st.text(max_size=30), st.sampled_from(["s3://mlflow/", "mlflow-artifacts:/", ""]))
def test_no_own_place_leads_out_of_the_bucket(tail, head):
    from urllib.parse import unquote

    location = head + tail
    if is_own(location, "s3://mlflow"):
        while (plain := unquote(location)) != location:
            location = plain
        assert location.split(":")[0] in ("s3", "mlflow-artifacts", "runs", "models")
        assert ".." not in re.split(r"[/\\]", location)


@pytest.mark.parametrize("location", [each for each in ELSEWHERE if each != "etc"])
def test_the_server_takes_no_version_and_no_experiment_that_lies_elsewhere(mlflow_uri, location):
    name = uuid.uuid4().hex
    assert asked(f"{mlflow_uri}{API}/registered-models/create", WRITER, {"name": name})[0] == 200
    status, told = asked(f"{mlflow_uri}{API}/model-versions/create", WRITER, {"name": name, "source": location})
    assert 400 <= status < 500, told
    for field in ("artifact_location", "artifactLocation"):
        status, told = asked(f"{mlflow_uri}{API}/experiments/create", WRITER, {"name": name, field: location})
        assert 400 <= status < 500, told
    twice = json.dumps(json.dumps({"name": name, "source": location}))
    assert 400 <= asked(f"{mlflow_uri}{API}/model-versions/create", WRITER, twice)[0] < 500
    found = json.loads(asked(f"{mlflow_uri}{API}/model-versions/search", WRITER)[1])
    assert not [version for version in found.get("model_versions", ()) if version["name"] == name]


def test_where_it_has_to_lie_is_said(mlflow_uri):
    status, told = asked(
        f"{mlflow_uri}{API}/experiments/create", WRITER, {"name": "x", "artifact_location": "s3://logs/a"}
    )
    assert status == 403
    assert "'s3://logs/a' is not where MLflow keeps artifacts here: name a run's model" in told


def test_a_row_of_before_that_names_another_bucket_is_not_opened(run_folder, monkeypatch):
    """As a release that did not look may have left it: written past the server, into its tables."""
    import sqlite3

    monkeypatch.delenv("MLFLOW_WORKSPACE", raising=False)
    secret = run_folder / f"secret-{uuid.uuid4().hex}"
    secret.mkdir()
    (secret / "log.txt").write_text("a secret")
    with MLflow(run_folder) as server:
        name = {"name": "model"}
        experiment = json.loads(asked(f"{server.url}{API}/experiments/create", WRITER, name)[1])["experiment_id"]
        run = json.loads(asked(f"{server.url}{API}/runs/create", WRITER, {"experiment_id": experiment})[1])
        run_id, place = run["run"]["info"]["run_id"], run["run"]["info"]["artifact_uri"]
        asked(f"{server.url}{API}/registered-models/create", WRITER, name)
        made = {**name, "source": f"{place}/model", "run_id": run_id}
        status, told = asked(f"{server.url}{API}/model-versions/create", WRITER, made)
        assert status == 200, told
        with sqlite3.connect(server.folder / "mlflow.db") as database:
            database.execute("UPDATE runs SET artifact_uri = ?", (str(secret),))
            database.execute("UPDATE model_versions SET source = ?, storage_location = ?", (str(secret), str(secret)))
        for path in (
            f"/get-artifact?run_id={run_id}&path=log.txt",
            "/model-versions/get-artifact?name=model&version=1&path=log.txt",
            f"{API}/artifacts/list?run_id={run_id}",
        ):
            status, told = asked(f"{server.url}{path}", READER)
            assert status == 403, told
            assert "a secret" not in told and "not where MLflow keeps artifacts here" in told


def test_the_requests_that_name_a_place_are_those_that_are_looked_at():
    """A field of this kind in a request of a new version makes this red: see maestro_mlflow/locations.py."""
    from mlflow.protos import model_registry_pb2, service_pb2

    def fields(message, within=()):
        for field in message.fields:
            if field.message_type is not None and field.message_type.full_name not in within:
                for name in fields(field.message_type, (*within, field.message_type.full_name)):
                    yield f"{field.name}.{name}"
            elif re.search(r"uri|url|location|_root$|^source$", field.name):
                yield field.name

    named = {
        f"{method.input_type.name}.{field}"
        for protocol in (service_pb2, model_registry_pb2)
        for service in protocol.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        for field in fields(method.input_type)
    }
    looked_at = {
        "CreateExperiment.artifact_location",
        "CreateModelVersion.source",
        "CreateWorkspace.default_artifact_root",
        "UpdateWorkspace.default_artifact_root",
    }
    # Texts that nobody opens, and what belongs to routes that are closed.
    harmless = {
        "LogInputs.datasets.dataset.source",
        "CreateDataset.source",
        "CreatePromptOptimizationJob.source_prompt_uri",
        "CreateWorkspace.trace_archival_config.location",
        "UpdateWorkspace.trace_archival_config.location",
    }
    assert {name for name in named if "Webhook" not in name and "Gateway" not in name} == looked_at | harmless
