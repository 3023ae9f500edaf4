"""training_pipeline, the registry and the server of clicks on the installed platform: from training to a rollback by
way of predictions by ids, and what is forged.

The model has a server of its own, so that nothing here changes what others are served.
"""

import io
import re
import subprocess
from contextlib import contextmanager

import pandas as pd
import pytest
import requests
import yaml

from infrastructure import commands, ui
from infrastructure.release import NAMESPACE, NotInstalled, kubectl, object_name, wait_until
from infrastructure.services import port_forward
from mlops.keys import task_instance
from tests.e2e import features
from tests.e2e.disturb import KILLED
from tests.e2e.runs import finished, running_pod, states, versions
from tests.e2e.test_operations import make
from tests.e2e.test_release import psql

pytestmark = pytest.mark.full
DAG, MODEL = "training_pipeline", "ctr_model"
CONFIG = "e2e/clicks.yaml"
# Few epochs, which are long enough to be killed in: of many small batches.
SHORT = {"epochs": 4, "patience": 4, "batch_rows": 8}
CONF = {"config_path": CONFIG, "min_auc": 0.55, "min_accuracy": 0.5}
BEST, LAST = "model_best.safetensors", "last.safetensors"


@pytest.fixture(scope="module")
def config(services):
    services.s3.put_object(Bucket="data", Key=CONFIG, Body=yaml.safe_dump(SHORT).encode())


@pytest.fixture(scope="module")
def built(services):
    """The id of a run that has updated the offline store, for which training_pipeline waits."""
    run_id = services.airflow.trigger(features.ENGINEERING)
    assert finished(services, run_id, features.ENGINEERING) == "success"
    return run_id


@pytest.fixture(scope="module")
def undisturbed(services, built, materialized, config):
    """The id of a run that registered a version."""
    run_id = services.airflow.trigger(DAG, CONF)
    assert finished(services, run_id, DAG) == "success"
    return run_id


@pytest.fixture(scope="module")
def disturbed(services, undisturbed):
    """The id of a run whose training was killed in its second epoch, and registered another version."""
    run_id = services.airflow.trigger(DAG, CONF)
    pod = running_pod(services, run_id, "train_model", DAG)
    wait_until(lambda: there(services, f"{folder(run_id)}/{LAST}"), 600, "the end of the first epoch", 0.1)
    kubectl("delete", "pod", pod, "--wait=false", *KILLED)
    assert finished(services, run_id, DAG, hurried=True) == "success"
    return run_id


def folder(run_id):
    """Of the checkpoints, in the data bucket."""
    return f"runs/{task_instance(DAG, run_id, 'train_model')}"


def version_of(services, run_id):
    return str(services.airflow.result(DAG, run_id, "register_model")["model_version"])


def there(services, key):
    return "Contents" in services.s3.list_objects_v2(Bucket="data", Prefix=key)


def read(services, bucket, key):
    return services.s3.get_object(Bucket=bucket, Key=key)["Body"].read()


def aliased(services):
    """The versions in production and before it."""
    aliases = services.mlflow.get_registered_model(MODEL).aliases
    return tuple(str(aliases.get(alias)) for alias in ("production", "previous"))


def made(target, *settings):
    """The output of a target of make that has to succeed."""
    code, output = make(target, *settings)
    assert code == 0, output
    return output


def refused(*arguments):
    """How the log of a command of the registry ends, which has to fail."""
    with pytest.raises(NotInstalled) as failure:
        commands.run("registry", *arguments)
    return str(failure.value)


def test_a_run_registers_a_version_with_its_card_in_mlflow_in_the_bucket_and_behind_its_task(services, undisturbed):
    assert set(states(services, undisturbed, DAG).values()) == {"success"}
    result = services.airflow.result(DAG, undisturbed, "register_model")
    version = version_of(services, undisturbed)
    assert services.airflow.result(DAG, undisturbed, "train_model")["run_dir"] == folder(undisturbed)
    assert result["registered_path"] == f"models:/{MODEL}/{version}"
    known = versions(services, MODEL)[version]
    assert known.run_id == services.airflow.result(DAG, undisturbed, "train_model")["run_id"]
    page = read(services, "reports", f"models/{MODEL}/v{version}/model_card.html").decode()
    for text in ("<svg", "user_events", "item_events", "How to make it again", "batch_rows"):
        assert text in page
    links = services.airflow.call("GET", f"/dags/{DAG}/dagRuns/{undisturbed}/taskInstances/register_model/links")
    address = services.airflow.url + links["extra_links"]["Report"]
    assert services.airflow.session.get(address, timeout=30).text == page
    assert "model_card.html" in {file.path for file in services.mlflow.list_artifacts(known.run_id)}


def test_a_pod_that_is_killed_in_epoch_2_goes_on_there_and_ends_with_the_same_weights(services, undisturbed, disturbed):
    tries = [task for task in services.airflow.tasks(DAG, disturbed) if task["task_id"] == "train_model"]
    log = services.airflow.log(DAG, disturbed, "train_model", tries[0]["try_number"])
    assert "going on after epoch 1" in log
    assert "epoch 1/" not in log
    for name in (BEST, f"refit/{BEST}"):
        weights = [read(services, "data", f"{folder(run_id)}/{name}") for run_id in (undisturbed, disturbed)]
        assert weights[0] == weights[1]
    metrics = [services.airflow.result(DAG, run_id, "evaluate_model")["metrics"] for run_id in (undisturbed, disturbed)]
    assert metrics[0] == metrics[1]


def predicted(rows):
    """What the server of the model says of the ids, or why it says nothing."""
    with port_forward(ui.CLICKS) as url:
        return requests.post(f"{url}/predict", json=rows, timeout=60).json()


def assert_served(version):
    """By all pods that a port-forward finds: one that ends may be among them for some seconds."""
    row = {"user_id": "196", "item_id": "242"}
    wait_until(lambda: predicted(row).get("version") == version, 60, f"a prediction by version {version}", 1)


def test_versions_are_promoted_served_and_rolled_back_by_make_and_each_change_is_written_down(
    services, undisturbed, disturbed
):
    first, second = (version_of(services, run_id) for run_id in (undisturbed, disturbed))
    made("promote", f"MODEL={MODEL}", f"VERSION={first}", "WHY=e2e begins")
    assert_served(first)
    made("promote", f"MODEL={MODEL}", f"VERSION={second}", "WHY=it is newer")
    assert aliased(services) == (second, first)
    assert_served(second)
    made("rollback", f"MODEL={MODEL}", "WHY=it was wrong")
    assert aliased(services) == (first, second)
    assert_served(first)
    (listed,) = [line for line in made("models").splitlines() if line.split()[:1] == [MODEL]]
    assert listed.split()[3:5] == [first, second]
    history = commands.run("registry", "history", f"--model={MODEL}").log.splitlines()
    for line, said in zip(history[-2:], ("it is newer", "it was wrong"), strict=True):
        assert said in line
    commands.run("registry", "verify", f"--model={MODEL}")


def test_a_prediction_by_ids_joins_the_online_features_and_is_written_down(services, materialized, undisturbed):
    made("promote", f"MODEL={MODEL}", f"VERSION={version_of(services, undisturbed)}")
    assert_served(version_of(services, undisturbed))
    table = features.events(services, "movielens")
    of_late = table[table.event_time > table.event_time.max() - pd.Timedelta(days=features.DAYS - 1)]
    user, item = (of_late[column].value_counts().index[0] for column in ("user_id", "item_id"))
    answer = predicted([{"user_id": user, "item_id": item}, {"user_id": "nobody", "item_id": item}])
    known, unknown = answer["predictions"]
    assert (answer["model"], answer["feature_service"]) == (MODEL, "click_through_v1")
    assert 0 < known["score"] < 1
    assert known["score"] != unknown["score"]
    for feature in ("user_events", "user_click_rate", "age"):
        assert feature not in known["missing"]
        assert feature in unknown["missing"]
    assert "item_events" not in known["missing"] + unknown["missing"]
    assert known["stale"] == []
    assert known["age_seconds"].keys() == {"user_activity", "item_activity", "user_profile"}
    wait_until(lambda: known["id"] in logged(services), 120, "the prediction in the log", 2)


def logged(services):
    """The ids of the model's predictions in the newest files of their log."""
    files = services.s3.list_objects_v2(Bucket="predictions", Prefix=f"{MODEL}/").get("Contents", [])
    newest = sorted(files, key=lambda file: file["LastModified"])[-5:]
    tables = [pd.read_parquet(io.BytesIO(read(services, "predictions", file["Key"]))) for file in newest]
    return {id_ for table in tables for id_ in table["id"]}


HOLD = f"select pg_advisory_lock(hashtext('promotions'), hashtext('{MODEL}')); select pg_sleep(300)"
HOLDS = "select count(*) from pg_locks where locktype = 'advisory' and granted"
LET_GO = "select pg_terminate_backend(pid) from pg_stat_activity where query like '%pg_sleep(300)'"


@contextmanager
def promoting():
    """Somebody else holds the model, as in the middle of a promotion, until the block ends."""
    script = f'PGPASSWORD="$POSTGRES_PASSWORD" exec psql -h /tmp -U postgres -d ledger -At -c "{HOLD}"'
    place = ["kubectl", "-n", NAMESPACE, "exec", object_name("statefulset", "postgresql"), "--"]
    with subprocess.Popen([*place, "sh", "-c", script], stdout=subprocess.DEVNULL) as other:
        try:
            wait_until(lambda: psql(NAMESPACE, HOLDS, "ledger") == "1", 60, "the lock", 0.5)
            yield
        finally:
            psql(NAMESPACE, LET_GO, "ledger")
            other.wait(60)


def test_who_promotes_beside_another_is_told_and_changes_nothing(services, disturbed):
    before = aliased(services)
    with promoting():
        code, output = make("promote", f"MODEL={MODEL}", f"VERSION={version_of(services, disturbed)}")
    assert code != 0
    assert "another process changes which version" in output
    assert aliased(services) == before


def test_a_forged_entry_of_the_ledger_is_found_and_carried_out_by_nobody(services, disturbed):
    made("promote", f"MODEL={MODEL}", f"VERSION={version_of(services, disturbed)}")
    before = aliased(services)
    columns = "model, number, verb, who, at, from_version, to_version, why, evidence, request, before"
    entry = "model, number + 1, 'promote', 'nobody', now(), to_version, from_version, '', evidence, 'forged', ''"
    last = f"from promotions where model = '{MODEL}' order by number desc limit 1"
    psql(NAMESPACE, f"insert into promotions ({columns}) select {entry} {last}", "ledger")
    try:
        assert "was announced by nobody" in refused("verify", f"--model={MODEL}")
        assert "it is forged" in refused("promote", f"--model={MODEL}", f"--version={before[0]}")
        assert aliased(services) == before
    finally:
        psql(NAMESPACE, "delete from promotions where request = 'forged'", "ledger")
    commands.run("registry", "verify", f"--model={MODEL}")


def test_a_forged_weight_file_is_found(services, undisturbed):
    version = version_of(services, undisturbed)
    run = services.mlflow.get_run(versions(services, MODEL)[version].run_id)
    (model,) = run.outputs.model_outputs
    pages = services.s3.get_paginator("list_objects_v2").paginate(Bucket="mlflow")
    keys = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
    (weights,) = [key for key in keys if re.search(rf"/{model.model_id}/.*\.safetensors$", key)]
    real = read(services, "mlflow", weights)
    services.s3.put_object(Bucket="mlflow", Key=weights, Body=real[:-4] + bytes(byte ^ 1 for byte in real[-4:]))
    export = ("export", f"--model={MODEL}", f"--version={version}", "--folder=/tmp/e2e")
    try:
        assert "is not what was logged" in refused(*export)
    finally:
        services.s3.put_object(Bucket="mlflow", Key=weights, Body=real)
    commands.run("registry", *export)
