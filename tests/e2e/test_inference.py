"""ml_pipeline on the installed platform: each delivered row is accounted for, whatever happens meanwhile."""

import io
import json
import uuid

import pandas as pd
import polars as pl
import pytest

from infrastructure.release import kubectl, wait_until
from tests.e2e.disturb import KILLED
from tests.e2e.runs import clear, finished, found_pods, states, tasks, versions

DAG = "ml_pipeline"
MODEL, ALIAS = "sensor-failure", "batch-e2e"
COLUMNS = [f"f{index}" for index in range(1, 10)]
SMALL = 300  # rows of a partition
ONCE = uuid.uuid4().hex[:8]  # what was delivered before is scored already, by the version of that time


@pytest.fixture(scope="module")
def version(services):
    """A version that no other test moves the alias of. Another module trains the first one, or this one has it done."""

    def registered():
        known = {model.name for model in services.mlflow.search_registered_models()}
        return sorted(versions(services, MODEL), key=int) if MODEL in known else []

    active = services.airflow.call("GET", "/dags/ml_pipeline_dag/dagRuns?state=queued&state=running")
    if not registered() and not active["total_entries"]:
        assert finished(services, services.airflow.trigger("ml_pipeline_dag"), "ml_pipeline_dag") == "success"
    found = wait_until(registered, 1000, f"a version of {MODEL}", 2)[-1]
    services.mlflow.set_registered_model_alias(MODEL, ALIAS, found)
    yield str(found)
    services.mlflow.delete_registered_model_alias(MODEL, ALIAS)


@pytest.fixture(scope="module")
def shuttle(services):
    """The raw readings."""
    content = services.s3.get_object(Bucket="data", Key="datasets/shuttle/shuttle.csv.gz")["Body"].read()
    return pd.read_csv(io.BytesIO(content), compression="gzip").rename(columns=str)


def put(services, key, content):
    if isinstance(content, pd.DataFrame):
        written = io.BytesIO()
        content.to_parquet(written, index=False)
        content = written.getvalue()
    services.s3.put_object(Bucket="data", Key=key, Body=content)


def deliver(services, name, files):
    """Puts files, a table or bytes each, and then their marker; returns the marker."""
    for file, content in files.items():
        put(services, f"inbox/{name}-{ONCE}/{file}", content)
    marker = f"inbox/{name}-{ONCE}/_READY"
    services.s3.put_object(Bucket="data", Key=marker, Body=b"")
    return marker


def begin(services, marker, rows=SMALL):
    return services.airflow.trigger(DAG, {"model": MODEL, "alias": ALIAS, "marker": marker, "partition_rows": rows})


def report_of(services, run_id):
    key = services.airflow.result(DAG, run_id, "generate_report")["report"]
    page = services.s3.get_object(Bucket="reports", Key=key)["Body"].read().decode()
    document = services.s3.get_object(Bucket="reports", Key=key.replace("index.html", "report.json"))["Body"].read()
    return json.loads(document), page


def table(services, key):
    return pl.read_parquet(io.BytesIO(services.s3.get_object(Bucket="data", Key=key)["Body"].read()))


def objects(services, batch):
    listed = services.s3.list_objects_v2(Bucket="data", Prefix=f"inference/{batch}/")["Contents"]
    return {entry["Key"]: entry["ETag"] for entry in listed}


def scores(services, batch):
    parts = sorted(key for key in objects(services, batch) if "/scores/part-" in key)
    return pl.concat([table(services, key) for key in parts])


def there(services, key):
    return "Contents" in services.s3.list_objects_v2(Bucket="data", Prefix=key)


def test_ten_files_are_scored_to_the_last_row_and_counted_once(services, version, shuttle):
    rows = shuttle.head(1000).astype({"f1": object})
    rows.loc[rows.index[[17, 500]], "f1"] = ["broken", None]
    rows["f1"] = rows["f1"].astype("string")
    files = {f"part-{index}.parquet": rows.iloc[index * 100 : (index + 1) * 100] for index in range(10)}
    marker = deliver(services, "e2e-ten", files)
    run_id = begin(services, marker)
    assert finished(services, run_id, DAG) == "success"
    document, page = report_of(services, run_id)
    assert (document["rows"], document["scored"], document["quarantined"]) == (1000, 998, 2)
    assert document["version"] == version
    assert document["judged"]["metrics"]["accuracy"]["value"] > 0.9
    assert "<svg" in page and "http" not in page.replace("http://www.w3.org", "")
    batch = document["batch"]
    assert scores(services, batch)["batch_row"].to_list() == [row for row in range(1000) if row not in (17, 500)]
    aside = table(services, f"inference/{batch}/quarantine.parquet")
    assert dict(aside.select("batch_row", "quarantine_reason").iter_rows()) == {
        17: "f1 is no number",
        500: "f1 is missing",
    }
    mapped = [task for task in services.airflow.tasks(DAG, run_id) if task["task_id"] == "run_inference"]
    assert [task["map_index"] for task in sorted(mapped, key=lambda task: task["map_index"])] == [0, 1, 2, 3]
    assert not there(services, marker) and there(services, marker.replace("inbox/", "done/"))
    links = services.airflow.call("GET", f"/dags/{DAG}/dagRuns/{run_id}/taskInstances/generate_report/links")
    address = services.airflow.url + links["extra_links"]["Report"]
    assert services.airflow.session.get(address, timeout=30).text == page
    before = objects(services, batch)
    again = begin(services, marker)
    clear(services, run_id, DAG, ["run_inference"])
    assert finished(services, again, DAG) == "success" == finished(services, run_id, DAG)
    changed = {key for key, tag in objects(services, batch).items() if before.get(key) != tag}
    assert changed == set(), "a second run for the marker, and a cleared task, change nothing"


MISSING = [name for name in COLUMNS if name != "f3"]


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("column", lambda rows: rows[[*MISSING, "class"]] if "class" in rows else rows[MISSING], "- f3: number"),
        pytest.param("types", lambda rows: rows.assign(f3="high"), "+ f3: text", marks=pytest.mark.full),
        pytest.param("empty", lambda rows: b"", "cannot be read as parquet", marks=pytest.mark.full),
        pytest.param("norows", lambda rows: rows.head(0), "has no rows", marks=pytest.mark.full),
        pytest.param(
            "corrupt", lambda rows: b"PAR1" + b"x" * 1000, "cannot be read as parquet", marks=pytest.mark.full
        ),
    ],
)
def test_a_file_that_does_not_fit_stops_the_run_with_the_difference(services, version, shuttle, name, change, told):
    marker = deliver(services, f"e2e-{name}", {"part-0.parquet": change(shuttle.head(100))})
    run_id = begin(services, marker)
    assert finished(services, run_id, DAG) == "failed"
    state = states(services, run_id, DAG)
    assert (state["wait_for_data"], state["ingest_data"]) == ("success", "failed")
    assert tasks(services, run_id, DAG)["ingest_data"]["try_number"] == 1, "it would come again"
    assert told in services.airflow.log(DAG, run_id, "ingest_data", 1)
    assert there(services, marker), "what was not scored is not counted"


@pytest.mark.full
def test_a_pod_killed_in_the_second_partition_and_a_promotion_lose_and_change_nothing(services, version, shuttle):
    rows = pd.concat([shuttle] * 10, ignore_index=True)
    marker = deliver(services, "e2e-killed", {"part-0.parquet": rows})
    run_id = begin(services, marker, 200_000)
    wait_until(lambda: states(services, run_id, DAG).get("ingest_data") == "success", 600, "the ingestion", 1)

    def second():
        running = found_pods(run_id, "run_inference", "Running")
        return next(
            (pod.metadata.name for pod in running if pod.metadata.annotations["maestro/map-index"] == "1"), None
        )

    pod = wait_until(second, 300, "the pod of the second partition", 0.2)
    kubectl("delete", "pod", pod, *KILLED)
    source = services.mlflow.get_model_version(MODEL, version).source
    other = services.mlflow.create_model_version(MODEL, source, model_id=source.removeprefix("models:/"))
    services.mlflow.set_registered_model_alias(MODEL, ALIAS, other.version)
    try:
        assert finished(services, run_id, DAG, hurried=True) == "success"
    finally:
        services.mlflow.set_registered_model_alias(MODEL, ALIAS, version)
        services.mlflow.delete_model_version(MODEL, other.version)
    document, _ = report_of(services, run_id)
    assert (document["rows"], document["scored"], document["version"]) == (len(rows), len(rows), version)
    assert {part["version"] for part in document["partitions"]} == {version}
    assert scores(services, document["batch"])["batch_row"].to_list() == list(range(len(rows)))


@pytest.mark.full
def test_a_file_larger_than_the_memory_of_a_pod_streams_through(services, version, shuttle):
    """2 GB as text, beside 1 GiB that the largest of these pods may take."""
    rows = shuttle.assign(note="x" * 1000)
    block = rows.to_csv(index=False, header=False).encode()
    header = ",".join(rows.columns).encode() + b"\n"
    times = -(-2_000_000_000 // len(block))
    folder = f"inbox/e2e-large-{ONCE}"
    where = {"Bucket": "data", "Key": f"{folder}/part-0.csv"}
    where["UploadId"] = services.s3.create_multipart_upload(**where)["UploadId"]
    parts = []
    for number in range(1, times + 1):
        body = header + block if number == 1 else block
        tag = services.s3.upload_part(**where, PartNumber=number, Body=body)["ETag"]
        parts.append({"PartNumber": number, "ETag": tag})
    services.s3.complete_multipart_upload(**where, MultipartUpload={"Parts": parts})
    services.s3.put_object(Bucket="data", Key=f"{folder}/_READY", Body=b"")
    try:
        run_id = begin(services, f"{folder}/_READY", 524288)
        assert finished(services, run_id, DAG) == "success"
        document, _ = report_of(services, run_id)
        assert (document["rows"], document["scored"]) == (times * len(shuttle), times * len(shuttle))
        attempts = {task["task_id"]: task["try_number"] for task in services.airflow.tasks(DAG, run_id)}
        assert set(attempts.values()) == {1}, "nothing was killed for its memory"
    finally:
        services.s3.delete_object(Bucket="data", Key=f"{folder}/part-0.csv")
