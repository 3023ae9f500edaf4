"""The sensor trainer as a test uses it: readings, jobs and the models they made."""

import uuid
from datetime import UTC, datetime

from infrastructure.release import wait_until
from tests.e2e.runs import versions

DAG = "train_clustering_model"
MODEL = "sensor-clusters"
ENDED = ("succeeded", "skipped", "failed", "cancelled")
JOB_SECONDS = 240
VALUES = {f"f{i}": value for i, value in enumerate((50.0, 21.0, 77.0, 0.0, 28.0, 0.0, 27.0, 48.0, 22.0), start=1)}


def reading(**changes):
    """A reading that nobody sent before."""
    new = {"key": uuid.uuid4().hex, "sensor": "shuttle", "time": datetime.now(UTC).isoformat(), "values": VALUES}
    return {**new, "failure": None, **changes}


def send(api, *readings):
    return api.ask("POST", "/readings", json={"readings": list(readings)})


def status(api, job_id):
    answer = api.ask("GET", f"/status/{job_id}")
    # While a server behind it is away it says so; it never breaks.
    assert answer.status_code in (200, 503), answer.text
    return answer.json() if answer.ok else {"state": "unknown"}


def ended(api, job_id):
    def job():
        found = status(api, job_id)
        return found if found["state"] in ENDED else None

    return wait_until(job, JOB_SECONDS, f"the end of job {job_id}", 0.5)


def assert_one_model(services, job):
    assert job["state"] == "succeeded", job["error"]
    made = [
        version for version in versions(services, MODEL).values() if version.tags.get("maestro.job_id") == job["job_id"]
    ]
    assert [str(version.version) for version in made] == [str(job["result"]["model_version"])]
