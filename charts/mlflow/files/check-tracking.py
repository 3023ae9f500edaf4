"""Writes a run with an artifact to MLflow by its service name, finds both again and removes the run."""

import os
import uuid

from mlflow import MlflowClient

client, name, token = MlflowClient(), "helm-test", str(uuid.uuid4())
experiment = client.get_experiment_by_name(name)
experiment_id = experiment.experiment_id if experiment else client.create_experiment(name)
run_id = client.create_run(experiment_id, tags={"token": token}).info.run_id
try:
    client.log_text(run_id, token, "token.txt")
    found = client.search_runs([experiment_id], f"tags.token = '{token}'")
    if [run.info.run_id for run in found] != [run_id]:
        raise SystemExit(f"run {run_id} was written to experiment {name} and is not found there")
    with open(client.download_artifacts(run_id, "token.txt", os.environ["HOME"])) as artifact:
        if artifact.read() != token:
            raise SystemExit(f"the artifact of run {run_id} holds something else than was written")
finally:
    client.set_terminated(run_id)
    client.delete_run(run_id)
print(f"{os.environ['MLFLOW_TRACKING_URI']}: a run and its artifact written and found")
