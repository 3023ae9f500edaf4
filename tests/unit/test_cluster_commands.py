"""The clusters that cannot be run here, against commands that record what they are asked; the node's preflight."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
MINIKUBE = REPOSITORY / "infrastructure/minikube/cluster"
CURRENT = REPOSITORY / "infrastructure/production/cluster"


@pytest.fixture
def record(tmp_path, monkeypatch):
    """Puts recording stand-ins on the PATH; returns a function that makes one and one that reads the record."""
    log = tmp_path / "record"
    log.touch()
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def stand_in(name, fails_on="never"):
        path = tmp_path / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >> {log}\ncase "$*" in *{fails_on}*) exit 1;; esac\n')
        path.chmod(0o755)

    return stand_in, lambda: log.read_text().splitlines()


def run(script, *arguments):
    return subprocess.run([script, *arguments], capture_output=True, text=True)


def test_minikube_starts_with_the_size_of_the_profile_when_it_does_not_run(record):
    stand_in, asked = record
    stand_in("minikube", fails_on="status")
    assert run(MINIKUBE, "up").returncode == 0
    start = next(line for line in asked() if " start " in line)
    assert (
        "--profile maestro" in start
        and "--cpus 2" in start
        and "--memory 6g" in start
        and "--kubernetes-version v1.35.4" in start
    )


def test_minikube_is_not_started_twice(record):
    stand_in, asked = record
    stand_in("minikube")
    assert run(MINIKUBE, "up").returncode == 0
    assert not [line for line in asked() if " start " in line]


@pytest.mark.parametrize(("command", "verb"), [("down", "stop"), ("delete", "delete"), ("status", "status")])
def test_minikube_commands_name_the_profile_they_act_on(record, command, verb):
    stand_in, asked = record
    stand_in("minikube")
    assert run(MINIKUBE, command).returncode == 0
    assert asked() == [f"minikube {verb} --profile maestro"]


def test_minikube_missing_is_said_with_the_remedy(record):
    result = run(MINIKUBE, "up")
    assert result.returncode == 1
    assert "CLUSTER=local" in result.stderr


def test_the_current_cluster_is_never_stopped_or_deleted(record):
    stand_in, asked = record
    stand_in("kubectl")
    stand_in("helm")
    for command in ("down", "delete"):
        result = run(CURRENT, command)
        assert result.returncode == 1
        assert "not stopped from here" in result.stderr
    assert asked() == []


def test_a_current_cluster_that_does_not_answer_is_said_with_the_remedy(record):
    stand_in, _ = record
    stand_in("kubectl", fails_on="version")
    stand_in("helm")
    result = run(CURRENT, "up")
    assert result.returncode == 1
    assert "kubectl config use-context" in result.stderr


@pytest.mark.parametrize("script", [MINIKUBE, CURRENT])
def test_an_unknown_command_is_answered_with_the_usage(record, script):
    stand_in, _ = record
    for tool in ("minikube", "kubectl", "helm"):
        stand_in(tool)
    result = run(script, "sideways")
    assert result.returncode == 2
    assert "usage" in result.stderr


@pytest.fixture
def preflight(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "infrastructure/local"))
    for name in ("preflight", "steps", "config"):
        sys.modules.pop(name, None)
    import preflight

    yield preflight
    for name in ("preflight", "steps", "config"):
        sys.modules.pop(name, None)


def test_preflight_names_every_problem_at_once_with_its_remedy(preflight, monkeypatch):
    monkeypatch.setattr(preflight, "MEMORY_GIB", 100_000)
    monkeypatch.setattr(preflight, "CHECKS", (preflight.memory, preflight.addresses, lambda: "use another disk"))
    with pytest.raises(preflight.Failure) as failure:
        preflight.preflight()
    assert "GiB of memory" in str(failure.value)
    assert "use another disk" in str(failure.value)


def test_preflight_stops_at_a_missing_root_because_the_other_checks_need_it(preflight, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(preflight.Failure) as failure:
        preflight.preflight()
    assert str(failure.value).count("\n") == 1
    assert "sudo" in str(failure.value)


def test_preflight_asks_for_room_only_before_the_cluster_exists(preflight, monkeypatch, tmp_path):
    monkeypatch.setattr(preflight, "STATE", tmp_path)
    monkeypatch.setattr(preflight, "DISK_GIB", 10**6)
    assert "MAESTRO_LOCAL_STATE" in preflight.disk()
    (tmp_path / "initialised").touch()
    assert preflight.disk() is None
