"""`make dags`: what it asks of the cluster, by a stand-in for kubectl, and what its Job does with the files."""

import base64
import json
import random
import shlex
from pathlib import Path
from typing import Any

import pytest

from infrastructure import dags
from mlops.airflow.administration import dags as inside
from mlops.airflow.bundles.versions import DagVersions
from tests.charts.conftest import Object, render
from tests.servers import execute, new_database
from tests.unit.programs import stand_in

KUBECTL = """#!/bin/sh
echo "$*" >> {folder}/calls
case "$*" in
  *" get job -"*|*" get job --"*) printf %s {described};;
  *" create "*)
    number=$(ls {folder} | grep -c created-)
    cat > {folder}/created-$number
    echo job.batch/put-$number;;
  *" get job.batch/put-"*) printf %s {job};;
  *" logs job.batch/put-"*) echo "what ${{4}} said";;
esac
"""


def released(more: Object | None = None) -> Object:
    """The Job as Kubernetes has it: with a uid, and labels by which it finds its pods."""
    objects = render("airflow", {"dags": {"persistence": {"enabled": True}}, **(more or {})})
    (job,) = (entry for entry in objects if entry["kind"] == "Job" and "airflow-dags-" in entry["metadata"]["name"])
    name = job["metadata"]["name"]
    job["metadata"]["uid"] = "u-1"
    job["spec"]["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": "u-1"}}
    job["spec"]["template"]["metadata"]["labels"] |= {
        "batch.kubernetes.io/controller-uid": "u-1",
        "controller-uid": "u-1",
        "batch.kubernetes.io/job-name": name,
        "job-name": name,
    }
    return job


class Cluster:
    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder, self._monkeypatch = folder, monkeypatch
        self.shows("Complete")

    def shows(self, condition: str, installed: bool = True) -> None:
        answers = {
            "described": {"items": [released()] if installed else []},
            "job": {"status": {"conditions": [{"type": condition, "status": "True"}]}},
        }
        quoted = {name: shlex.quote(json.dumps(answer)) for name, answer in answers.items()}
        stand_in(self._folder, self._monkeypatch, "kubectl", KUBECTL.format(folder=self._folder, **quoted))

    @property
    def calls(self) -> list[str]:
        return (self._folder / "calls").read_text().splitlines()

    @property
    def created(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted(self._folder.glob("created-*"))]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(tmp_path, monkeypatch)


def test_the_files_of_a_folder_are_put_by_a_copy_of_the_releases_job_and_taken_out_of_the_cluster_again(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "own"
    (folder / "utils/__pycache__").mkdir(parents=True)
    (folder / "utils/__pycache__/x.pyc").write_text("")
    (folder / "a.py").write_text("mine")
    (folder / ".airflowignore").write_text("utils")
    assert dags.main([str(folder)]) == 0
    assert capsys.readouterr().out == "what job.batch/put-1 said\n"
    given, job = cluster.created
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": released()["metadata"]["name"], "uid": "u-1"}
    assert given["metadata"]["ownerReferences"] == job["metadata"]["ownerReferences"] == [owner]
    # One without any gets those of its pods from Kubernetes.
    assert job["metadata"]["labels"] == {"app.kubernetes.io/part-of": "maestro"}, "the next one finds the release's"
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never", "the log of one that failed can be read"
    labels = job["spec"]["template"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/component"] == "airflow-dags", "by which it is let at the database"
    assert not [label for label in labels if "job-name" in label or "controller-uid" in label]
    assert "selector" not in job["spec"]
    assert cluster.calls[-1] == f"--namespace maestro delete configmap {given['metadata']['name']}"


def test_what_failed_says_so_with_its_log_and_leaves_nothing_behind(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.shows("Failed")
    (tmp_path / "own").mkdir()
    (tmp_path / "own/a.py").write_text("mine")
    assert dags.main([str(tmp_path / "own")]) == 1
    assert "stay as they were, the log of job.batch/put-1 ends with:\nwhat job" in capsys.readouterr().err
    assert " delete configmap " in cluster.calls[-1]


def test_where_no_volume_is_people_are_told_where_their_files_come_from(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.shows("Complete", installed=False)
    (tmp_path / "own").mkdir()
    (tmp_path / "own/a.py").write_text("mine")
    assert dags.main([str(tmp_path / "own")]) == 1
    assert "airflow.dags.persistence.enabled" in capsys.readouterr().err
    assert cluster.created == []


def test_an_empty_folder_and_one_that_kubernetes_would_not_take_are_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name a folder with DAG files"):
        dags.files_of(tmp_path)
    with pytest.raises(ValueError, match="leave out what is no DAG file"):
        dags.archive({"large": random.Random(0).randbytes(1_000_000)})


def run(job: Object, places: dict[str, Path], database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the container of a Job does, with its folders elsewhere."""
    (container,) = job["spec"]["template"]["spec"]["containers"]
    args: list[str] = container["args"]
    if args[0] == "sh":
        line = next(line for line in args[-1].splitlines() if line.startswith("python -m"))
        args = line.split()
    assert args[:3] == ["python", "-m", "mlops.airflow.administration.dags"]
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {f"/{word.split('/')[1]}" for word in args if word.startswith("/")} <= mounted
    for place, there in places.items():
        args = [word.replace(place, str(there)) for word in args]
    told = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert told.get("DAGS_OF") != ""
    monkeypatch.setenv("DATABASE_URL", database)
    monkeypatch.setenv("DAGS_OF", told.get("DAGS_OF", ""))
    assert inside.main(args[3:]) == 0


def test_the_jobs_bring_the_images_files_put_others_over_them_and_bring_the_images_back(
    cluster: Cluster, postgresql: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = new_database(postgresql)
    execute(database, "create table dag_run (state text, bundle_version text)")
    image, volume, given = (tmp_path / name for name in ("image", "volume", "given"))
    for folder in (image, volume, given):
        folder.mkdir()
    (image / "a.py").write_text("image's")
    (image / "b.py").write_text("image's")
    monkeypatch.setattr(inside, "IMAGE", image)
    places = {"/dags": volume, "/given": given}
    now = lambda: {path.name: path.read_text() for path in (volume / "current").iterdir()}  # noqa: E731

    run(released(), places, database, monkeypatch)
    assert now() == {"a.py": "image's", "b.py": "image's"}

    dags.put({"a.py": b"mine", "own.py": b"own"}, ["b.py"])
    config_map, job = cluster.created
    (volumes,) = (v for v in job["spec"]["template"]["spec"]["volumes"] if v["name"] == "given")
    assert volumes["configMap"]["name"] == config_map["metadata"]["name"]
    for name, content in config_map["binaryData"].items():
        (given / name).write_bytes(base64.b64decode(content))
    run(job, places, database, monkeypatch)
    assert now() == {"a.py": "mine", "own.py": "own"}
    run(released(), places, database, monkeypatch)
    assert now() == {"a.py": "mine", "own.py": "own"}, "the same image again, as after a change of other values"
    run(released({"global": {"images": {"tag": "new"}}}), places, database, monkeypatch)
    assert now() == {"a.py": "image's", "b.py": "image's"}, "another one"
    run(job, places, database, monkeypatch)

    dags.restore()
    run(cluster.created[-1], places, database, monkeypatch)
    assert now() == {"a.py": "image's", "b.py": "image's"}
    assert len(list(DagVersions(volume).path("x").parent.iterdir())) == 2
