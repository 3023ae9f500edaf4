"""A worker whose training does what files in a folder say; run as a process that tests may kill.

While it trains there is the file `training`, which holds its process id. It goes on when there is `go`, and reports
nothing while there is `quiet`; `fail` holds the cause of a failure, once. Before it publishes it waits while there is
`hold`. Each version of the "registry" is a file `version-<job>`, and `published` has a line each time something asked
to publish.
"""

import os
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

from mlops.result import Failure

FOLDER = Path(os.environ.get("SENSOR_TEST_FOLDER", "/nonexistent"))


def train(table, columns, *, job_id, tracking, report):
    (FOLDER / "training").write_text(str(os.getpid()))
    report("waiting", 0.5)
    while not (FOLDER / "go").exists():
        if not (FOLDER / "quiet").exists():
            report("waiting", 0.5)
        if (FOLDER / "fail").exists():
            (FOLDER / "training").unlink()
            cause = (FOLDER / "fail").read_text()
            (FOLDER / "fail").unlink()
            raise Failure(cause)
        time.sleep(0.05)
    newest = int(table["id"].max())
    return SimpleNamespace(run_id=job_id, metrics={"auc": float("nan")}, clusters=len(columns), newest_reading=newest)


def publish(trained, *, job_id, tracking, ledger):
    with (FOLDER / "published").open("a") as file:
        file.write(f"{job_id}\n")
    made = FOLDER / f"version-{job_id}"
    made.touch()
    while (FOLDER / "hold").exists():
        time.sleep(0.05)
    return {"model_version": made.name, "served_version": made.name, "served": True, "reason": "it is the first"}


if __name__ == "__main__":
    for name, contents in (
        ("mlops.sensor_trainer.worker.training", {"train": train, "publish": publish}),
        ("mlops.stores.tracking", {"Tracking": lambda uri: None}),
    ):
        module = ModuleType(name)
        vars(module).update(contents)
        sys.modules[name] = module
    from mlops.config import SensorWorkerSettings
    from mlops.sensor_trainer.worker.runner import work

    work(SensorWorkerSettings.from_environment())
