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
  *" get cronjob "*) echo '{cron}';;
  *" create job "*) echo job.batch/of-now;;
  *" get job.batch/of-now "*) echo '{job}';;
  *" logs job.batch/of-now "*) echo 'what the job said';;
esac
"""


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a kubectl on the PATH that shows the job with one condition; returns what reads the calls."""

    def shown(condition: str, status: str = "True", *, fails: str = "never", crons: tuple[str, ...] = ("our-sets",)):
        answer = json.dumps({"status": {"conditions": [{"type": condition, "status": status}]}})
        cron = json.dumps({"items": [{"metadata": {"name": name}} for name in crons]})
        script = KUBECTL.format(calls=tmp_path / "calls", job=answer, fails=fails, cron=cron)
        stand_in(tmp_path, monkeypatch, "kubectl", script)
        return lambda: (tmp_path / "calls").read_text().splitlines()

    return shown


def test_the_data_sets_are_loaded_by_a_job_of_the_release_whose_log_is_shown(job, capsys):
    calls = job("Complete")
    assert data.main() == 0
    assert capsys.readouterr().out == "what the job said\n"
    found, created, *_ = calls()
    assert "-l app.kubernetes.io/instance=maestro,app.kubernetes.io/component=datasets" in found
    assert created.startswith("--namespace maestro create job our-sets-")
    assert "--from=cronjob/our-sets" in created


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


def test_a_release_without_the_job_fails_the_target_and_says_what_was_looked_for(job, capsys):
    job("Complete", crons=())
    assert data.main() == 1
    assert 'no cronjob of release "maestro" with component "datasets"' in capsys.readouterr().err


def test_a_job_that_cannot_be_made_fails_the_target_with_the_cause(job, capsys):
    job("Complete", fails="create")
    assert data.main() == 1
    assert "the cause (install with 'make install')" in capsys.readouterr().err
