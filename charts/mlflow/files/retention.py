"""Removes for good the runs that were deleted more than DAYS days ago, with their artifacts, as `mlflow gc` does.

That one asks nobody whether a run is a registered model's; here such a run stays. The server removes the artifacts.
"""

import os

from mlflow import MlflowClient
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

DAY = 86_400_000  # milliseconds

store = SqlAlchemyStore(os.environ["MLFLOW_BACKEND_STORE_URI"], "mlflow-artifacts:/")
client, registered, token = MlflowClient(), set(), None
while True:
    page = client.search_model_versions(page_token=token)
    registered |= {version.run_id for version in page}
    token = page.token
    if not token:
        break
removed = 0
for run_id in store._get_deleted_runs(older_than=int(float(os.environ["DAYS"]) * DAY)):  # noqa: SLF001 - as gc does
    if run_id in registered:
        print(f"run {run_id} stays: a registered model is of it", flush=True)
        continue
    get_artifact_repository(store.get_run(run_id).info.artifact_uri).delete_artifacts()
    store._hard_delete_run(run_id)  # noqa: SLF001
    print(f"removed run {run_id}", flush=True)
    removed += 1
print(f"removed {removed} runs", flush=True)
