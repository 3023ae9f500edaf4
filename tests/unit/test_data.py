"""`make data`, and the Job that runs a command in the cluster, by a stand-in for kubectl."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from infrastructure import commands, data
from mlops.result import Failure
from tests.unit.programs import DESCRIBED, stand_in

# A Job is called by the number of those that were made.
KUBECTL = """#!/bin/sh
echo "$*" >> {folder}/calls
case "$*" in
  *{fails}*) echo 'the cause' >&2; exit 1;;
  *" get configmap "*) echo {described};;
  *" create "*)
    number=$(ls {folder} | grep -c created-)
    cat > {folder}/created-$number
    echo job.batch/of-now-$number;;
  *" get job.batch/of-now-"*) echo {job};;
  *" logs job.batch/of-now-"*) echo "what ${{4}} said";;
  *" get pods -l job-name=of-now-"*" --field-selector=status.phase=Succeeded "*) echo {pods};;
esac
"""


class Cluster:
    """Shows each Job with one condition, and keeps what was asked."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder, self._monkeypatch = folder, monkeypatch
        self.shows("Complete")

    def shows(self, condition: str, status: str = "True", *, fails: str = "never", installed: bool = True) -> None:
        ended = {"state": {"terminated": {"message": json.dumps({"rows": 3})}}}
        answers = {
            "described": {"items": [DESCRIBED] if installed else []},
            "job": {"status": {"conditions": [{"type": condition, "status": status}]}},
            "pods": {"items": [{"status": {"containerStatuses": [ended]}}]},
        }
        quoted = {name: shlex.quote(json.dumps(answer)) for name, answer in answers.items()}
        stand_in(self._folder, self._monkeypatch, "kubectl", KUBECTL.format(folder=self._folder, fails=fails, **quoted))

    @property
    def calls(self) -> list[str]:
        return (self._folder / "calls").read_text().splitlines()

    @property
    def created(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted(self._folder.glob("created-*"))]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(tmp_path, monkeypatch)


def arguments(job: dict[str, Any]) -> str:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return " ".join(container["args"])


def test_the_commands_that_the_release_names_run_one_after_the_other_and_their_logs_are_shown(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    assert data.main() == 0
    assert capsys.readouterr().out == "what job.batch/of-now-0 said\nwhat job.batch/of-now-1 said\n"
    assert [arguments(job) for job in cluster.created] == [
        "python -m mlops ingestion load --dataset all",
        "python -m mlops features build --dataset all",
    ]
    assert "-l app.kubernetes.io/instance=maestro,app.kubernetes.io/component=command" in cluster.calls[0]
    assert all(call.startswith("--namespace maestro ") for call in cluster.calls)


def test_a_command_that_failed_fails_the_target_with_its_log_and_ends_it(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.shows("Failed")
    assert data.main() == 1
    assert "ingestion load failed, its log ends with:\nwhat job.batch/of-now-0 said" in capsys.readouterr().err
    assert len(cluster.created) == 1


@pytest.mark.parametrize(("condition", "status"), [("Suspended", "True"), ("Complete", "False")])
def test_a_job_that_does_not_end_fails_the_target(
    cluster: Cluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, condition: str, status: str
) -> None:
    cluster.shows(condition, status)
    monkeypatch.setattr(commands, "SECONDS", 0)
    assert data.main() == 1
    assert "the job of ingestion load: not within 0 s" in capsys.readouterr().err


def test_a_release_that_does_not_describe_the_job_fails_the_target_and_says_what_was_looked_for(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.shows("Complete", installed=False)
    assert data.main() == 1
    assert 'no configmap of release "maestro" with component "command"' in capsys.readouterr().err


def test_a_job_that_cannot_be_made_fails_the_target_with_the_cause(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.shows("Complete", fails="create")
    assert data.main() == 1
    assert "the cause (install with 'make install')" in capsys.readouterr().err


def test_a_command_hands_back_its_result_and_its_log(cluster: Cluster) -> None:
    assert commands.run("notify", "send", "--text=done") == ({"rows": 3}, "what job.batch/of-now-0 said\n")


def test_a_job_is_told_what_its_command_opens_and_goes_with_the_release() -> None:
    job = commands.make_job(DESCRIBED, "sensor-trainer", "replay", ["--hours=1"])
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert [entry["name"] for entry in container["env"]] == ["S3", "SENSOR-TRAINER", "PUSHGATEWAY"]
    assert container["image"] == "datasets"
    assert job["spec"]["template"]["metadata"]["labels"] == {
        "a": "b",
        "maestro/opens-s3": "true",
        "maestro/opens-sensor-trainer": "true",
        "maestro/opens-pushgateway": "true",
    }, "NetworkPolicies let the pod go where it is labelled to"
    assert job["metadata"] == {
        "labels": {"a": "b"},
        "generateName": "our-command-sensor-trainer-replay-",
        "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "our-command", "uid": "u-1"}],
    }
    (container,) = commands.make_job(DESCRIBED, "notify", "send")["spec"]["template"]["spec"]["containers"]
    assert [entry["name"] for entry in container["env"]] == ["PUSHGATEWAY"], "a release need not have all"


@pytest.mark.parametrize(("command", "account"), [("promote", "our-deployer"), ("adopt", None)])
def test_who_changes_the_model_server_does_so_as_the_deployer_and_nobody_else_does(
    command: str, account: str | None
) -> None:
    pod = commands.make_job(DESCRIBED, "registry", command)["spec"]["template"]["spec"]
    assert pod.get("serviceAccountName") == account
    assert pod.get("automountServiceAccountToken") == (True if account else None)


def test_a_command_of_which_nothing_says_what_it_opens_is_not_run() -> None:
    with pytest.raises(Failure, match=r"mlops/needs\.py"):
        commands.make_job(DESCRIBED, "training", "dream")
