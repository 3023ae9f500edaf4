"""What people do with the installed platform: targets of make, its pages, going back a version, down and up again."""

import json
import os
import shutil
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from infrastructure import install
from infrastructure.dags import put
from infrastructure.release import find, kubectl, object_name, wait_until
from infrastructure.services import admin, mlflow_writer, object_store_keys, port_forward, service
from infrastructure.ui import PAGES, installed
from mlops.registry.record import FEATURE_SERVICE
from mlops.stores.deployments import VERSION_ANNOTATION
from tests.e2e.asking import pod
from tests.e2e.conftest import placed_dags
from tests.e2e.disturb import reconnect
from tests.e2e.runs import finished, versions
from tests.e2e.test_pipeline import DAG as PIPELINE
from tests.e2e.test_pipeline import MODEL, ROW
from tests.e2e.test_release import FILES

pytestmark = pytest.mark.full
REPOSITORY = Path(__file__).resolve().parents[2]

DAG_FILE = """
from datetime import timedelta

from airflow.sdk import DAG, AsyncCallback, DeadlineAlert, DeadlineReference

from mlops.airflow.authoring.alerts import deadline_missed, task_failed
from mlops.airflow.authoring.operator import PodTask, task_pod

with DAG(
    dag_id="e2e_late",
    schedule=None,
    is_paused_upon_creation=False,
    deadline=DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=timedelta(seconds=5),
        callback=AsyncCallback(deadline_missed),
    ),
):
    PodTask(task_id="takes_longer", arguments=["sleep", "30"])

with DAG(dag_id="e2e_fails", schedule=None, is_paused_upon_creation=False):
    PodTask(task_id="fails", arguments=["false"], retries=0, on_failure_callback=task_failed)

with DAG(dag_id="e2e_rollback", schedule=None, is_paused_upon_creation=False):
    task_pod("rollback", "serving", "rollback", model="sensor-failure", identity="deployer", pool="deployment")
"""


def make(target, *settings):
    """(exit code, output) of a target of make."""
    done = subprocess.run(
        ["make", target, *settings],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


def deployable(services):
    """The versions that the pipeline made; another DAG registers models of other columns by the same name."""
    return [str(number) for number, known in versions(services, MODEL).items() if FEATURE_SERVICE not in known.tags]


@pytest.fixture(scope="module")
def deployed(services):
    """Two versions of the served model at least, one of them in production."""
    while len(deployable(services)) < 2:
        assert finished(services, services.airflow.trigger(PIPELINE), PIPELINE) == "success"


@pytest.fixture
def dags(services):
    """For each test anew: they lie in pods, which an upgrade replaces."""
    with placed_dags(services, ["e2e_late", "e2e_fails", "e2e_rollback"], DAG_FILE):
        yield


def test_a_missed_deadline_is_told_of_while_the_run_goes_on(services, dags):
    run_id = services.airflow.trigger("e2e_late")
    text = f"alert: e2e_late: run {run_id} is not done by its deadline"
    triggerer = object_name("deployment", "airflow-triggerer")
    wait_until(lambda: text in kubectl("logs", triggerer, "--all-containers", "--since=10m"), 180, "the alert", 2)
    assert finished(services, run_id, "e2e_late") == "success", "late is not failed"


MAIL_SERVER = "e2e-mail"
PORT = 2525
ADDRESSES = {"from": "maestro@example.com", "to": "e2e@example.com"}


def mail_objects(server):
    """The server, its Service, the Secret with the addresses, and the way there.

    Values let pods go to addresses outside; whether that of a pod is one depends on the network.
    """
    named, of = {"metadata": {"name": MAIL_SERVER}}, {"run": MAIL_SERVER}
    yield server
    yield {"apiVersion": "v1", "kind": "Secret", **named, "stringData": ADDRESSES}
    yield {"apiVersion": "v1", "kind": "Service", **named, "spec": {"selector": of, "ports": [{"port": PORT}]}}
    yield {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        **named,
        "spec": {
            "podSelector": {"matchLabels": {"app.kubernetes.io/name": "airflow"}},
            "policyTypes": ["Egress"],
            "egress": [{"to": [{"podSelector": {"matchLabels": of}}]}],
        },
    }


@pytest.fixture
def mailbox(tmp_path, services):
    """What a mail server in the cluster has taken: values name it until the test ends. Airflow has new pods then."""
    program = ("python", "-Wignore", "-um", "smtpd", "-nc", "DebuggingServer", f"0.0.0.0:{PORT}")
    mail = {"host": MAIL_SERVER, "port": PORT, "security": "none", "existingSecret": MAIL_SERVER}
    values = tmp_path / "mail.yaml"
    values.write_text(json.dumps({"global": {"notifications": {"mail": mail}}}))
    try:
        server = pod(MAIL_SERVER, {"run": MAIL_SERVER}, program, "airflow-triggerer")
        for manifest in mail_objects(server):
            kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
        kubectl("wait", f"pod/{MAIL_SERVER}", "--for=condition=Ready", "--timeout=120s")
        assert install.main([*FILES, str(values)]) == 0
        reconnect(services)
        yield lambda: kubectl("logs", MAIL_SERVER)
    finally:
        assert install.main([*FILES]) == 0
        reconnect(services)
        for kind in ("pod", "service", "secret", "networkpolicy"):
            kubectl("delete", kind, MAIL_SERVER, "--ignore-not-found", "--now")


def test_a_failed_task_and_a_missed_deadline_are_told_of_by_mail(mailbox, services, dags):
    ends = {"e2e_fails": "failed", "e2e_late": "success"}
    for dag_id, run_id in {dag_id: services.airflow.trigger(dag_id) for dag_id in ends}.items():
        wait_until(lambda run_id=run_id: run_id in mailbox(), 180, f"a mail that names run {run_id} of {dag_id}", 2)
        assert finished(services, run_id, dag_id) == ends[dag_id]


def served_version():
    return find("deployment", "model-server")["spec"]["template"]["metadata"]["annotations"][VERSION_ANNOTATION]


def test_a_promoted_version_is_served_and_the_one_before_it_again_after_a_rollback(services, deployed, dags):
    now = str(services.mlflow.get_model_version_by_alias(MODEL, "production").version)
    other = next(number for number in deployable(services) if number != now)

    def promote():
        code, output = make("promote", f"MODEL={MODEL}", f"VERSION={other}", "WHY=a test")
        assert code == 0, output

    def roll_back():
        run_id = services.airflow.trigger("e2e_rollback")
        assert finished(services, run_id, "e2e_rollback") == "success"

    for change, wanted, replaced in ((promote, other, now), (roll_back, now, other), (roll_back, other, now)):
        change()
        aliases = [
            str(services.mlflow.get_model_version_by_alias(MODEL, alias).version)
            for alias in ("production", "previous")
        ]
        assert aliases == [wanted, replaced]
        assert served_version() == wanted
        with port_forward("model-server") as url:
            answer = requests.post(f"{url}/invocations", json={"dataframe_split": ROW}, timeout=60)
        assert answer.status_code == 200, answer.text


def test_connections_are_checked_and_a_broken_one_is_named_with_what_to_do(services):
    page = service("airflow-api-server")  # one that the scheduler has a way to
    own = {"connection_id": "e2e_own", "conn_type": "http", "host": page.name, "port": page.port("http")}
    services.airflow.call("POST", "/connections", json=own)
    path = f"/connections/{own['connection_id']}"
    try:
        code, output = make("check-connections")
        assert code == 0, output
        assert "ok     connection e2e_own" in output
        services.airflow.call("PATCH", path, params={"update_mask": ["port"]}, json={**own, "port": 1})
        code, output = make("check-connections")
    finally:
        services.airflow.call("DELETE", path)
    assert code != 0
    assert "FAILED connection e2e_own" in output


def test_a_new_dag_file_is_in_the_release_after_make_dags(services, tmp_path):
    dags = tmp_path / "dags"  # a copy: other tests read the repository's
    shutil.copytree(REPOSITORY / "dags", dags)
    (dags / "e2e_new.py").write_text(DAG_FILE.replace('"e2e_', '"e2e_new_'))
    try:
        code, output = make("dags", f"DAGS={dags}")
        assert code == 0, output
        known = lambda: {dag["dag_id"] for dag in services.airflow.call("GET", "/dags")["dags"]}  # noqa: E731
        wait_until(lambda: {"e2e_new_late", "e2e_new_rollback"} <= known(), 180, "the new DAGs", 1)
    finally:
        put({}, ["e2e_new.py"])


@contextmanager
def pages():
    """`make ui`, until the block ends as by Ctrl-C."""
    with subprocess.Popen(
        ["make", "ui"], cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, process_group=0,
    ) as process:  # fmt: skip
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGINT)
            process.communicate(timeout=30)


def answers(port):
    try:
        return requests.get(f"http://127.0.0.1:{port}/", timeout=5).status_code < 500
    except requests.RequestException:
        return False


# What a person does at a page, and what is to be seen then.
def at_airflow(page):
    username, password = admin()
    page.get_by_label("Username").fill(username)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()
    page.goto("/dags/ml_pipeline_dag")
    page.get_by_text("ml_pipeline_dag").first.wait_for()
    page.get_by_text("train_model").first.wait_for()
    page.get_by_role("button", name="Trigger").first.click()
    form = page.get_by_role("dialog")
    form.get_by_text("A declared model").wait_for()
    form.get_by_role("button", name="Trigger").click(trial=True)  # waits until it can be sent, and does not send it


def at_mlflow(page):
    page.goto("/#/models/sensor-failure")
    page.get_by_text("sensor-failure").first.wait_for()
    page.get_by_text("production").first.wait_for()


def at_minio(page):
    access_key, secret_key = object_store_keys()
    page.locator("#accessKey").fill(access_key)
    page.locator("#secretKey").fill(secret_key)
    page.get_by_role("button", name="Login").click()
    page.get_by_text("reports").first.wait_for()


def at_trainer(page):
    page.get_by_text("/predict").first.wait_for()


def at_prometheus(page):
    page.goto("/classic/alerts")
    page.get_by_text("DagRunFailed").first.wait_for()


VISITS = {
    "Airflow": at_airflow,
    "MLflow": at_mlflow,
    "MinIO": at_minio,
    "Sensor trainer": at_trainer,
    "Prometheus": at_prometheus,
}


def test_every_page_is_visited_but_those_that_only_programs_ask():
    """And Grafana's, whose image a release has to be given."""
    assert {page.title for page in PAGES} - VISITS.keys() == {"Model server", "Clicks", "Features", "Grafana"}


def test_each_page_shows_in_a_browser_what_the_readme_says(services, deployed):
    from playwright.sync_api import sync_playwright

    screenshots = REPOSITORY / ".build/pages"
    screenshots.mkdir(parents=True, exist_ok=True)
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]
    with pages(), sync_playwright() as playwright:
        for shown in installed():
            wait_until(lambda port=shown.local: answers(port), 60, f"an answer at port {shown.local}")
        username, password = mlflow_writer()
        said = []
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=quiet)
        for shown in installed():
            if shown.title in VISITS:
                address = f"http://127.0.0.1:{shown.local}"
                page = browser.new_page(
                    viewport={"width": 1400, "height": 900},
                    base_url=address,
                    http_credentials={"username": username, "password": password} if shown.title == "MLflow" else None,
                )
                page.on("console", lambda message: said.append(message.text))
                page.goto(f"{address}{shown.path}")
                VISITS[shown.title](page)
                page.screenshot(path=screenshots / f"{shown.title}.png")
                page.close()
        browser.close()
    assert [text for text in said if "Content Security Policy" in text] == []


def test_the_cluster_taken_down_and_up_again_has_what_it_had(services, deployed):
    before = versions(services, MODEL).keys()
    redis = ("exec", object_name("statefulset", "redis"), "--", "redis-cli", "-n", "9")
    services.s3.put_object(Bucket="data", Key="e2e/kept", Body=b"42")
    services.airflow.call("POST", "/variables", json={"key": "e2e_kept", "value": "42"})
    try:
        assert "OK" in kubectl(*redis, "SET", "e2e-kept", "42")
        services.close()
        for target in ("cluster-down", "cluster-up"):
            code, output = make(target)
            assert code == 0, output
        reconnect(services)
        assert services.s3.get_object(Bucket="data", Key="e2e/kept")["Body"].read() == b"42"
        assert services.airflow.call("GET", "/variables/e2e_kept")["value"] == "42"
        assert kubectl(*redis, "GET", "e2e-kept").strip() == "42"
        assert versions(services, MODEL).keys() == before
    finally:
        services.airflow.call("DELETE", "/variables/e2e_kept")
        services.s3.delete_object(Bucket="data", Key="e2e/kept")
        kubectl(*redis, "DEL", "e2e-kept")
