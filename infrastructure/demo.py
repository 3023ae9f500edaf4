"""`make demo`: run each of the platform's DAGs once, show how it goes and what came of it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import requests

from infrastructure import dashboard, ui
from infrastructure.airflow import Airflow
from infrastructure.commands import run
from infrastructure.release import NAMESPACE, RELEASE, NotInstalled, kubectl, wait_until
from infrastructure.sensors import replay, trainer
from infrastructure.services import port_forward
from mlops import models

REPLAYED_HOURS = 7 * 24
# Long enough to learn something, which is to be shown; a real run asks for more.
SHORT = {"epochs": 5, "min_auc": 0.55, "min_accuracy": 0.5}
# MovieLens' users by their ids, and a film that most of them rated. Those who did of late are in the online store.
USERS, FILM = [str(number) for number in range(1, 944)], "50"
DELIVERED_ROWS = 10_000
RUN_SECONDS = 30 * 60
SERVED_SECONDS = 60
ENDED = {"success", "failed", "skipped", "upstream_failed", "removed"}
MARKS = {"success": "ok", "failed": "FAILED", "skipped": "skipped", "upstream_failed": "not run"}


def _seconds(task: dict[str, Any]) -> float:
    started = datetime.fromisoformat(task["start_date"])
    ended = datetime.fromisoformat(task["end_date"]) if task["end_date"] else datetime.now(started.tzinfo)
    return (ended - started).total_seconds()


def watch(airflow: Airflow, dag_id: str, run_id: str) -> str:
    """Print each task as it ends, and the one that runs; returns the state the run ended in."""
    shown: set[str] = set()
    deadline = time.monotonic() + RUN_SECONDS
    live = sys.stdout.isatty()
    while True:
        state: str = airflow.run(dag_id, run_id)["state"]
        tasks = airflow.tasks(dag_id, run_id)
        for task in tasks:
            if task["state"] in ENDED and task["task_id"] not in shown:
                shown.add(task["task_id"])
                took = f"{_seconds(task):6.1f} s" if task["start_date"] else " " * 8
                print(f"\r  {task['task_id']:<26} {MARKS.get(task['state'], task['state']):<8} {took}", flush=True)
        running = [task for task in tasks if task["start_date"] and task["state"] not in ENDED]
        if live and running:
            print(
                f"\r  {running[0]['task_id']:<26} {running[0]['state']:<8} {_seconds(running[0]):6.1f} s",
                end="",
                flush=True,
            )
        if state in ("success", "failed"):
            return state
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"{dag_id} did not end within {RUN_SECONDS // 60} min: look at its tasks in the Airflow UI ('make ui')"
            )
        time.sleep(1)


def show_failures(airflow: Airflow, dag_id: str, run_id: str) -> None:
    for task in airflow.tasks(dag_id, run_id):
        if task["state"] == "failed":
            print(f"\n--- log of {task['task_id']}, try {task['try_number']} ---")
            print(airflow.log(dag_id, run_id, task["task_id"], task["try_number"]))


def result_of(airflow: Airflow, dag_id: str, run_id: str, task_id: str) -> Any:
    """What a task returned; raises NotInstalled where that is nothing, which is no way to succeed."""
    result = airflow.result(dag_id, run_id, task_id)
    if result is None:
        raise NotInstalled(f"{task_id} of {dag_id} has left no result: look at its log in the Airflow UI ('make ui')")
    return result


def predict(example: dict[str, Any]) -> Any:
    """The model server's predictions for a table in pandas' split form.

    Raises NotInstalled with the server's answer when it gives none.
    """
    with port_forward("model-server") as url:
        answer = requests.post(f"{url}/invocations", json={"dataframe_split": example}, timeout=60)
    return _answered("the model server", answer)["predictions"]


def predict_clicks() -> dict[str, Any] | None:
    """What the server of clicks says of each user and one film, asked by ids alone; None where it has no model yet.

    Raises NotInstalled with the server's answer when it gives none.
    """
    with port_forward(ui.CLICKS) as url:
        rows = [{"user_id": user, "item_id": FILM} for user in USERS]
        answer = requests.post(f"{url}/predict", json=rows, timeout=60)
    if answer.status_code == requests.codes.unavailable and answer.json().get("error_code") == "NO_MODEL":
        return None
    found: dict[str, Any] = _answered("the model server of clicks", answer)
    return found


def _answered(who: str, answer: requests.Response) -> Any:
    if not answer.ok:
        raise NotInstalled(f"{who} answered {answer.status_code}: {answer.text[:500]}")
    return answer.json()


def show_built(airflow: Airflow, dag_id: str, run_id: str) -> None:
    result = result_of(airflow, dag_id, run_id, "save_features")
    made = ", ".join(f"{of['partitions']} of {dataset}" for dataset, of in result.items())
    print(f"\noffline store    partitions of features that were made anew: {made}")


def show_features(airflow: Airflow, dag_id: str, run_id: str) -> None:
    result = result_of(airflow, dag_id, run_id, "materialize_features")
    print(f"\nfeatures         {result['rows_read']:,} rows read, {result['rows_written']:,} entities written to Redis")
    features = [f"sensor_windows:{name}" for name in ("f1", "f1_mean_10m", "f1_mean_60m")]
    with port_forward("feast") as url:
        request = {"entities": {"machine": ["shuttle"]}, "features": features}
        answer = requests.post(f"{url}/get-online-features", json=request, timeout=60)
    found = _answered("the feature server", answer)
    names = found["metadata"]["feature_names"]
    values = [result["values"][0] for result in found["results"]]
    print(f"machine shuttle  {dict(zip(names, values, strict=True))}")


def show_deployment(airflow: Airflow, dag_id: str, run_id: str) -> None:
    score = result_of(airflow, dag_id, run_id, "evaluate_model")
    if not score["passed"]:
        print(f"\nThe model was not deployed: {'; '.join(score['reasons'])}")
        return
    deployed = result_of(airflow, dag_id, run_id, "deploy_model")
    print(f"\nmodel            {deployed['model']} version {deployed['version']}, alias production")
    print(f"accuracy         {score['accuracy']:.4f}   (always the majority class: {score['baseline_accuracy']:.4f})")
    print(f"F1, AUC          {score['f1']:.4f}, {score['auc']:.4f}")
    if example := deployed["example"]:
        row = dict(zip(example["columns"], example["data"][0], strict=True))
        print(f"one prediction   {row} -> {predict(example)}")
    else:
        print("one prediction   none: no model server serves it (modelServer.models)")


def show_registration(airflow: Airflow, dag_id: str, run_id: str) -> None:
    if registered := airflow.result(dag_id, run_id, "register_model"):
        print(f"\nmodel            {registered['model']} version {registered['version']}, alias {registered['alias']}")
        print(f"trained from     feature service {registered['feature_service']}")
    else:
        reasons = result_of(airflow, dag_id, run_id, "skip_registration")["reasons"]
        print(f"\nThe model was not registered: {'; '.join(reasons)}")


def show_clicks(airflow: Airflow, dag_id: str, run_id: str) -> None:
    """The network that was trained, and a prediction by ids of the one that is in production.

    A platform's first version goes into production. Later it would take the place of one that was trained for longer.
    """
    metrics = result_of(airflow, dag_id, run_id, "evaluate_model")["metrics"]
    registered = result_of(airflow, dag_id, run_id, "register_model")
    name, version = registered["model"], registered["version"]
    print(f"\nmodel            {name} version {version}, alias {registered['alias']}")
    print(f"AUC, log loss    {metrics['auc']:.4f}, {metrics['log_loss']:.4f}   (of a short training)")
    if ui.CLICKS not in {page.component for page in ui.installed()}:
        print("one prediction   none: no model server serves it (modelServer.models)")
        return
    said = predict_clicks()
    if said is None:
        reason = ("--why=the first version", "--who=make demo")
        run("registry", "promote", f"--model={name}", f"--version={version}", *reason)
        # A pod that had none may still take requests for some seconds.
        what = f"a prediction by version {version} of {name}"
        said = wait_until(lambda: predict_clicks() or {}, SERVED_SECONDS, what)
    pairs = zip(USERS, said["predictions"], strict=True)
    user, prediction = min(pairs, key=lambda pair: len(pair[1]["missing"]))
    print(f"one prediction   user {user}, film {FILM} -> {prediction['score']:.3f} by version {said['version']}")
    print(f"its features     {_aged(prediction)}")


def _aged(prediction: Mapping[str, Any]) -> str:
    """How old the features of a prediction are, and which were missing or stale."""
    ages = [f"{view} {seconds / 3600:.1f} h old" for view, seconds in prediction["age_seconds"].items()]
    faults = [f"{len(prediction[what])} {what}" for what in ("missing", "stale") if prediction[what]]
    return ", ".join([*ages, *faults])


def show_report(airflow: Airflow, dag_id: str, run_id: str) -> None:
    result = result_of(airflow, dag_id, run_id, "generate_report")
    print(f"\nreport           {result['report']} in the bucket reports, {result['alerts']} alerts")


def deliver(dataset: str) -> str:
    """Delivers rows of a data set to be scored, in several files; returns the marker that says that they are whole."""
    marker = f"inbox/demo-{datetime.now():%Y%m%d-%H%M%S}/_READY"
    run("inference", "deliver", f"--dataset={dataset}", f"--marker={marker}", f"--rows={DELIVERED_ROWS}", "--files=3")
    return marker


def show_batch(airflow: Airflow, dag_id: str, run_id: str) -> None:
    result = result_of(airflow, dag_id, run_id, "generate_report")
    print(
        f"\nbatch            {result['rows']:,} rows came, {result['scored']:,} are scored by version "
        f"{result['version']}, {result['quarantined']:,} are put aside"
    )


def replay_readings() -> dict[str, Any]:
    """Sends a week of the real set to the sensor trainer, an hour at a time; returns some of them as examples."""
    sent = replay(REPLAYED_HOURS)
    print(f"\nreadings         {sent['accepted']:,} new ones of {sent['hours']} hours, {sent['duplicates']:,} known")
    return {"failures": sent["failures"], "healthy": sent["healthy"]}


def show_training(airflow: Airflow, dag_id: str, run_id: str) -> str | None:
    """Returns the version that is served from now on; None where another one may be."""
    job = result_of(airflow, dag_id, run_id, "monitor_training")
    if "skipped" in job:
        print(f"\nNo model was trained: {job['skipped']}")
        return None
    print(
        f"\nmodel            version {job['model_version']}; version {job['served_version']} is served: {job['reason']}"
    )
    print(f"measured         {', '.join(f'{name} {value:.4g}' for name, value in sorted(job['metrics'].items()))}")
    return str(job["served_version"])


def show_failure(examples: Mapping[str, Sequence[dict[str, Any]]], version: str | None) -> None:
    """What the served model says of a reading that was a failure, and of one that was none."""
    readings = [*examples["failures"], *examples["healthy"]]
    with trainer() as api:
        answer = api.predict(readings, version)
    scored = list(zip(readings, answer["predictions"], strict=True))
    failures, healthy = scored[: len(examples["failures"])], scored[len(examples["failures"]) :]
    flagged = [pair for pair in failures if pair[1]["failure"]]
    print(f"\nfailures         {len(flagged)} of {len(failures)} are flagged by version {answer['model_version']}")
    for title, pairs in (("one of them", flagged or failures), ("a healthy one", healthy)):
        for reading, prediction in pairs[:1]:
            print(f"{title:<16} {reading['values']} -> {prediction}")


def show_addresses() -> None:
    print("\nLook at it: 'make ui' forwards these ports until Ctrl-C.")
    # What is written elsewhere is read by others and kept: a log of a build, a file.
    lines = ui.addresses() if sys.stdout.isatty() else [*ui.addresses(logins=False), "'make ui' shows the logins"]
    print("\n".join(f"  {line}" for line in lines))


def show_dashboard() -> None:
    """Where the page of the dashboards is; nothing where the release has no Prometheus."""
    try:
        with port_forward("prometheus") as url:
            dashboard.draw(url, dashboard.PAGE)
    except (NotInstalled, dashboard.QueryFailed, requests.RequestException) as error:
        print(f"\nNo dashboards: {error}")
    else:
        print(f"\nDashboards: {dashboard.PAGE.as_uri()}, and 'make dashboard' draws them anew")


# Each DAG and what shows what came of it. They run side by side, but for one that trains on what another makes fresh.
STEPS: Sequence[tuple[str, Callable[[Airflow, str, str], None]]] = (
    ("feature_engineering_pipeline", show_built),
    ("feature_materialization", show_features),
    ("ml_pipeline_dag", show_deployment),
    ("model_training_pipeline", show_registration),
    ("data_validation_pipeline", show_report),
    ("ml_pipeline", show_batch),
    ("training_pipeline", show_clicks),
)
AFTER = {
    "model_training_pipeline": "feature_materialization",
    "ml_pipeline": "ml_pipeline_dag",
    "training_pipeline": "feature_engineering_pipeline",
}
SENSORS = "train_clustering_model"


def model_of(dataset: str, *, features: bool) -> str:
    """The model that learns from a data set, from its columns or from features; of another set where it has none."""
    fitting = [name for name in models.names() if (models.get(name).feature_service is not None) == features]
    return next((name for name in fitting if models.get(name).dataset == dataset), fitting[-1])


def begin(airflow: Airflow, dag_id: str, conf: Mapping[str, Any]) -> str:
    """Start a run of a DAG, once Airflow knows it; returns the run's id."""
    wait_until(
        lambda: dag_id in {dag["dag_id"] for dag in airflow.call("GET", "/dags")["dags"]}, 120, f"{dag_id} in Airflow"
    )
    return airflow.trigger(dag_id, conf)


def ends_well(airflow: Airflow, dag_id: str, conf: Mapping[str, Any], run_id: str) -> bool:
    """Show a run until its end, and the logs of what failed."""
    given = "".join(f" of {conf[name]}" for name in ("model", "dataset") if name in conf)
    print(f"\n{dag_id}{given} ({run_id})")
    if watch(airflow, dag_id, run_id) == "success":
        return True
    show_failures(airflow, dag_id, run_id)
    print(
        f"\nThe run failed. The pod of a failed task stays for a while: kubectl -n {NAMESPACE} get pods",
        file=sys.stderr,
    )
    return False


def main() -> int:
    started = time.monotonic()
    dataset = os.environ.get("DATASET", "shuttle")
    confs: dict[str, dict[str, Any]] = {dag_id: {} for dag_id, _ in STEPS}
    confs["data_validation_pipeline"] = {"dataset": dataset}
    confs["training_pipeline"] = dict(SHORT)
    confs["ml_pipeline_dag"] = {"model": model_of(dataset, features=False)}
    confs["ml_pipeline"] = dict(confs["ml_pipeline_dag"])
    confs["model_training_pipeline"] = {"model": model_of(dataset, features=True)}
    try:
        with port_forward("airflow-api-server") as url:
            airflow = Airflow(url)
            runs = {dag_id: begin(airflow, dag_id, confs[dag_id]) for dag_id, _ in STEPS if dag_id not in AFTER}
            for dag_id, show in STEPS:
                if not ends_well(airflow, dag_id, confs[dag_id], runs[dag_id]):
                    return 1
                show(airflow, dag_id, runs[dag_id])
                for late in (late for late, needed in AFTER.items() if needed == dag_id):
                    if late == "ml_pipeline":
                        confs[late] |= {"marker": deliver(models.get(confs[late]["model"]).dataset)}
                    runs[late] = begin(airflow, late, confs[late])
            examples = replay_readings()
            # An hourly run may have trained on these readings a moment before.
            conf = {"minimum_new_readings": 0}
            run_id = begin(airflow, SENSORS, conf)
            if not ends_well(airflow, SENSORS, conf, run_id):
                return 1
            show_failure(examples, show_training(airflow, SENSORS, run_id))
        show_addresses()
        show_dashboard()
    except (NotInstalled, TimeoutError, requests.RequestException) as error:
        print(f"error: {error}", file=sys.stderr)
        print(kubectl("get", "pods", check=False), file=sys.stderr)
        return 1
    print(f"\nFrom trigger to here {time.monotonic() - started:.0f} s; release {RELEASE} in namespace {NAMESPACE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
