"""`make data` by a stand-in for kubectl."""

import json
from pathlib import Path

import pytest

from infrastructure import data
from tests.unit.programs import stand_in

KUBECTL = """#!/bin/sh
echo "$*" >> {calls}
case "$*" in
  *{fails}*) echo 'the cause' >&2; exit 1;;
  *" create job "*) echo job.batch/of-now;;
  *" get job.batch/of-now "*) echo '{job}';;
  *" logs job.batch/of-now "*) echo 'what the job said';;
esac
"""


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a kubectl on the PATH that shows the job with one condition; returns what reads the calls."""

    def shown(condition: str, status: str = "True", *, fails: str = "never"):
        answer = json.dumps({"status": {"conditions": [{"type": condition, "status": status}]}})
        script = KUBECTL.format(calls=tmp_path / "calls", job=answer, fails=fails)
        stand_in(tmp_path, monkeypatch, "kubectl", script)
        return lambda: (tmp_path / "calls").read_text().splitlines()

    return shown


def test_the_data_sets_are_loaded_by_a_job_of_the_release_whose_log_is_shown(job, capsys):
    calls = job("Complete")
    assert data.main() == 0
    assert capsys.readouterr().out == "what the job said\n"
    assert calls()[0].startswith("--namespace maestro create job maestro-datasets-")
    assert "--from=cronjob/maestro-datasets" in calls()[0]


def test_a_job_that_failed_fails_the_target_with_its_log(job, capsys):
    job("Failed")
    assert data.main() == 1
    assert capsys.readouterr().out == "what the job said\n"


@pytest.mark.parametrize(("condition", "status"), [("Suspended", "True"), ("Complete", "False")])
def test_a_job_that_does_not_end_fails_the_target(job, capsys, monkeypatch, condition, status):
    job(condition, status)
    monkeypatch.setattr(data, "SECONDS", 0)
    assert data.main() == 1
    assert "the job that loads the data sets: not within 0 s" in capsys.readouterr().err


def test_a_release_without_the_job_fails_the_target_with_the_cause(job, capsys):
    job("Complete", fails="create")
    assert data.main() == 1
    assert "the cause (install with 'make install')" in capsys.readouterr().err
