import json
import os
import signal
import socket
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest

from mlops.config import ServedModelSettings
from mlops.datasets.declaration import LABEL
from mlops.registry.aliases import promote
from mlops.result import Failure
from mlops.serving import answers, server
from mlops.stores.tracking import load_through
from mlops.training.columns import features_of, signature_of
from mlops.training.families import sklearn
from mlops.training.hyperparameters import Hyperparameters
from tests.conftest import answers as answering
from tests.conftest import cleaned, eventually, free_ports, running
from tests.servers import MLflow
from tests.unit import small_models, trainer_api
from tests.unit.kinds import HOUSES, houses

MODEL = "sensor-failure"


@contextmanager
def model_server(platform, tmp_path, version: str = ""):
    """(process, address) of what a pod of the model server runs."""
    (port,) = free_ports(1)
    address = f"http://127.0.0.1:{port}"
    environment = {"MLFLOW_TRACKING_URI": platform.mlflow.tracking_uri, "MODEL_NAME": MODEL, **MLflow.reader}
    command = [sys.executable, "-m", "mlops", "serving", "serve", "--host", "127.0.0.1", "--port", str(port)]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with running(
        command,
        tmp_path / "server.log",
        lambda: answering(f"{address}/ping"),
        {**environment, "MODEL_VERSION": version, "PATH": path},
    ) as process:
        yield process, address


def request(url: str, body: bytes | None = None) -> tuple[int, dict]:
    call = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(call, timeout=240) as answer:
            status, content = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        status, content = error.code, error.read()
    return status, json.loads(content)


def as_body(rows: pd.DataFrame) -> bytes:
    return json.dumps({"dataframe_split": rows.to_dict("split")}).encode()


@pytest.fixture(scope="module")
def versions(module_platform, tables) -> list[str]:
    """Two registered versions, of which the first is in production; the second says 1 to everything."""
    tracking = module_platform.tracking
    table = tables("shuttle").train.head(5000)
    features = table.drop(columns=LABEL)
    registered = []
    for labels in (table[LABEL], 1 - table[LABEL]):
        model = small_models.fitted(features, labels, max_iter=20)
        registered.append(tracking.register(MODEL, small_models.log(tracking, model, features.head(5))))
    promote(tracking, MODEL, registered[0])
    return registered


@pytest.fixture(scope="module")
def production(module_platform, versions, tmp_path_factory):
    """A server of the version in production, which tests only ask."""
    with model_server(module_platform, tmp_path_factory.mktemp("production")) as served:
        yield served


def test_without_a_model_the_server_is_ready_and_says_what_to_do(platform, tmp_path):
    with model_server(platform, tmp_path) as (process, address):
        assert request(f"{address}/ping") == (200, {})
        status, answer = request(f"{address}/invocations", b'{"dataframe_split": {}}')
        assert status == 503
        assert answer["error_code"] == "NO_MODEL"
        assert "run ml_pipeline_dag" in answer["message"]
        for path in ("/", "/health", "/version", "/invocations", "/predict", "/ping/of/another"):
            assert request(f"{address}{path}")[0] == 503, "only /ping is well without a model"
        process.send_signal(signal.SIGTERM)
        assert process.wait(240) == 0


def metrics(address: str) -> dict[str, float]:
    with urllib.request.urlopen(f"{address}/metrics", timeout=240) as answer:
        lines = [line.rpartition(" ") for line in answer.read().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def test_a_server_without_a_model_has_no_number_to_show(platform, tmp_path):
    with model_server(platform, tmp_path) as (_, address):
        assert metrics(address) == {}


def test_predictions_are_counted_by_their_status_and_timed_and_probes_are_not(production):
    _, address = production
    before = metrics(address)
    assert answering(f"{address}/ping")
    assert request(f"{address}/invocations", b'{"dataframe_records": [{"f1": 50}]}')[0] == 400
    seconds = "maestro_model_server_request_seconds"
    # A request is counted a moment after the caller has its answer.
    eventually(lambda: metrics(address)[f"{seconds}_count"] > before[f"{seconds}_count"])
    after = metrics(address)
    changed = {name for name in after if after[name] != before.get(name) and not name.endswith("_created")}
    assert 'maestro_model_server_requests_total{status="400"}' in changed
    assert {name for name in changed if "_requests_total" in name} == {
        'maestro_model_server_requests_total{status="400"}'
    }
    assert after[f"{seconds}_count"] == before[f"{seconds}_count"] + 1
    assert 'maestro_model_server_requests_total{status="500"}' in before, "a rate begins at nothing"


def test_json_that_ends_a_parser_is_the_callers_fault(production):
    _, address = production
    assert request(f"{address}/invocations", b"[" * 5_000)[0] == 400


def test_the_production_model_predicts_the_label_of_real_rows(production, tables):
    _, address = production
    test = tables("shuttle").test.head(2000)
    rows = test.drop(columns=LABEL).astype(int)
    status, answer = request(f"{address}/invocations", as_body(rows))
    assert status == 200
    assert sum(a == b for a, b in zip(answer["predictions"], test[LABEL], strict=True)) > 1950
    status, answer = request(f"{address}/invocations", b'{"dataframe_records": [{"f1": 50}]}')
    assert status == 400
    assert "f2" in json.dumps(answer)


def test_who_asks_gets_the_probability_of_each_class_beside_the_prediction(production, tables):
    _, address = production
    body = json.loads(as_body(tables("shuttle").test.drop(columns=LABEL).head(50)))
    plain = request(f"{address}/invocations", json.dumps(body).encode())[1]["predictions"]
    status, answer = request(f"{address}/invocations", json.dumps({**body, "params": {"probabilities": True}}).encode())
    assert status == 200
    assert [each["prediction"] for each in answer["predictions"]] == plain
    for each in answer["predictions"]:
        assert set(each["probabilities"]) == {"0", "1"}
        assert sum(each["probabilities"].values()) == pytest.approx(1)
        assert (each["probabilities"]["1"] > 0.5) == (each["prediction"] == 1)
    status, answer = request(
        f"{address}/invocations", json.dumps({**body, "params": {"probabilities": "yes"}}).encode()
    )
    assert status == 400 and "probabilities" in json.dumps(answer)


def test_a_model_answers_raw_rows_integers_and_missing_columns(module_platform, tmp_path):
    """Through the loader of the server: texts that are missing, whole numbers, a column that nobody sent."""
    dataset = HOUSES["multiclass"]
    table = cleaned(houses(600), dataset)
    features = features_of(table, dataset)
    model = sklearn.fit(features, table[LABEL], dataset, Hyperparameters(max_iter=5))
    with module_platform.tracking.new_run("shuttle", "houses", {}) as run_id:
        example, signature = features.head(3), signature_of(features, dataset)
        module_platform.tracking.log_model(sklearn.save(model), example, signature, sklearn.PACKAGES)
    path = module_platform.tracking.download_model(f"runs:/{run_id}/model", tmp_path, sklearn.LAYOUT)
    load_through(path, sklearn.FILE, answers.__name__, {"family": "sklearn"}, answers.PROBABILITIES)
    served = mlflow.pyfunc.load_model(str(path))
    assert served.predict(features).tolist() == model.predict(features).tolist()
    sent = features.drop(columns="heating").assign(street=None).head(4)
    rows = sent.assign(heating=None)[list(features)]
    assert served.predict(sent).tolist() == model.predict(rows).tolist()
    found = served.predict(sent, params={"probabilities": True})
    np.testing.assert_allclose(
        [list(each.values()) for each in found["probabilities"]], model.predict_proba(rows), rtol=1e-12
    )
    assert list(found["probabilities"][0]) == sorted(set(table[LABEL]))


def test_a_number_has_no_probabilities():
    dataset = HOUSES["regression"]
    table = cleaned(houses(300), dataset)
    features = features_of(table, dataset)
    model = sklearn.fit(features, table[LABEL], dataset, Hyperparameters(max_iter=5))
    served = answers.ServedModel(sklearn, model, list(features))
    np.testing.assert_array_equal(served.predict(features, {"probabilities": True}), model.predict(features))


def test_the_version_of_the_pod_template_wins_over_the_alias(module_platform, versions, tables, tmp_path):
    rows = tables("shuttle").test.drop(columns=LABEL).head(100)
    production, other = (
        small_models.loaded(module_platform.tracking, f"models:/{MODEL}/{version}").predict(rows).tolist()
        for version in versions
    )
    assert production != other
    with model_server(module_platform, tmp_path, version=versions[1]) as (_, address):
        assert request(f"{address}/invocations", as_body(rows))[1]["predictions"] == other


def test_a_request_under_way_is_answered_when_the_server_is_told_to_stop(module_platform, versions, tables, tmp_path):
    rows = tables("shuttle").train.drop(columns=LABEL)
    body = as_body(rows)
    with model_server(module_platform, tmp_path) as (process, address):
        port = int(address.rsplit(":", 1)[1])
        with (
            socket.create_connection(("127.0.0.1", port), timeout=240) as connection,
            connection.makefile("rb") as answer,
        ):
            connection.sendall(
                f"POST /invocations HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n".encode()
            )
            assert b"100 Continue" in answer.readline()  # the server has begun with the request
            process.send_signal(signal.SIGTERM)
            connection.sendall(body)
            lines = list(iter(answer.readline, b""))
        assert b"200 OK" in lines[1]
        assert len(json.loads(lines[-1])["predictions"]) == len(rows)
        process.wait(240)


def test_the_scoring_server_is_the_process_itself(production):
    """So that signals reach it, and no second Python takes memory beside it."""
    process, _ = production
    assert b"mlops.serving.measured:application" in Path(f"/proc/{process.pid}/cmdline").read_bytes()


def test_without_mlflow_the_server_gives_up_and_names_it(environment, tmp_path):
    from mlops.cli import main

    environment = {"MODEL_NAME": MODEL, "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    with pytest.MonkeyPatch.context() as patch:
        for key, value in environment.items():
            patch.setenv(key, value)
        assert main(["serving", "serve", "--patience", "0"]) == 1
    message = (tmp_path / "termination-log").read_text()
    assert "MLflow at http://127.0.0.1:9 refuses the connection" in message
    assert "global.services.mlflow" in message


def test_an_mlflow_that_is_starting_is_waited_for_as_long_as_the_patience_lasts(clock, monkeypatch):
    class Healthy(Exception):
        pass

    def tracking(_: object) -> None:
        raise Healthy

    monkeypatch.setattr(server, "Tracking", tracking)
    with trainer_api.serving() as api:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", api.url)
        api.says((503, {}), (503, {}), (200, {}))
        with pytest.raises(Healthy):
            server.serve(ServedModelSettings(MODEL), "127.0.0.1", 0, 300)
        assert len(api.asked) == 3
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(Failure, match="refuses the connection"):
        server.serve(ServedModelSettings(MODEL), "127.0.0.1", 0, 300)
    assert 298 <= sum(clock.pauses[2:]) <= 300
