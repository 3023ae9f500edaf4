"""Make's targets and the clusters that cannot be run here, against commands that record what they are asked.

And the node's preflight.
"""

import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from infrastructure.local.config import KUBERNETES_VERSION, NODE_ADDRESS

REPOSITORY = Path(__file__).resolve().parents[2]
MINIKUBE = REPOSITORY / "infrastructure/minikube/cluster"
CURRENT = REPOSITORY / "infrastructure/current/cluster"
MAKE = shutil.which("make")


@pytest.fixture
def programs(tmp_path):
    """A folder for the PATH with what the scripts are written in, and nothing else that this machine has installed."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for tool in ("bash", "cat", "dirname", "ls", "mkdir", "tar"):
        (folder / tool).symlink_to(shutil.which(tool))
    (folder / "python3").symlink_to(sys.executable)
    return folder


@pytest.fixture
def record(tmp_path, programs, monkeypatch):
    """Puts recording stand-ins on the PATH; returns a function that makes one and one that reads the record."""
    log = tmp_path / "record"
    log.touch()
    monkeypatch.setenv("PATH", str(programs))

    def stand_in(name, fails_on="never"):
        path = programs / name
        path.write_text(
            f'#!/bin/sh\necho "{name} $*" >> {log}\necho "$KUBECONFIG" >> {tmp_path}/kubeconfigs\n'
            f'case "$*" in *"{fails_on}"*) exit 1;; esac\n'
        )
        path.chmod(0o755)

    return stand_in, lambda: log.read_text().splitlines()


@pytest.fixture
def minikube(record):
    """Stand-ins for all that the minikube profile needs; returns the function that reads the record."""
    stand_in, asked = record
    for tool in ("minikube", "kubectl", "helm"):
        stand_in(tool)
    return asked


def run(script, *arguments):
    return subprocess.run([script, *arguments], capture_output=True, text=True)


def test_minikube_starts_with_the_size_of_the_profile_when_it_does_not_run(record, minikube):
    stand_in, asked = record
    stand_in("minikube", fails_on="status")
    assert run(MINIKUBE, "up").returncode == 0
    start = next(line for line in asked() if " start " in line)
    assert (
        "--profile maestro" in start
        and "--cpus 2" in start
        and "--memory 6g" in start
        and f"--kubernetes-version {KUBERNETES_VERSION} " in start
    )


def test_minikube_is_not_started_twice(minikube):
    assert run(MINIKUBE, "up").returncode == 0
    assert minikube()
    assert not [line for line in minikube() if " start " in line]


def test_minikube_writes_to_a_kubeconfig_of_its_own_whatever_the_user_has_chosen(minikube, monkeypatch, tmp_path):
    monkeypatch.setenv("KUBECONFIG", "/the/user's")
    own = run(MINIKUBE, "kubeconfig").stdout.strip()
    assert Path(own) == REPOSITORY / ".build/minikube.kubeconfig"
    assert run(MINIKUBE, "up").returncode == 0
    assert set((tmp_path / "kubeconfigs").read_text().splitlines()) == {own}


@pytest.mark.parametrize(("command", "verb"), [("down", "stop"), ("delete", "delete"), ("status", "status")])
def test_minikube_commands_name_the_profile_they_act_on(minikube, command, verb):
    assert run(MINIKUBE, command).returncode == 0
    assert minikube() == [f"minikube {verb} --profile maestro"]


@pytest.mark.parametrize("missing", ["minikube", "kubectl", "helm"])
def test_a_tool_that_minikube_needs_and_that_is_missing_is_said_with_the_remedy(minikube, programs, missing):
    (programs / missing).unlink()
    result = run(MINIKUBE, "up")
    assert result.returncode == 1
    assert f"{missing} is not installed" in result.stderr
    assert "CLUSTER=local" in result.stderr
    assert minikube() == []


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


def test_a_current_cluster_that_answers_is_named_and_asked_for_nothing_else(record):
    stand_in, asked = record
    stand_in("kubectl")
    stand_in("helm")
    for command in ("up", "status"):
        result = run(CURRENT, command)
        assert result.returncode == 0
        assert result.stdout.startswith("using the cluster of context '")
    assert {line.split()[1] for line in asked()} == {"version", "config"}


@pytest.mark.parametrize("missing", ["kubectl", "helm"])
def test_a_tool_that_the_current_cluster_needs_and_that_is_missing_is_said(record, programs, missing):
    stand_in, asked = record
    stand_in({"kubectl": "helm", "helm": "kubectl"}[missing])
    result = run(CURRENT, "up")
    assert result.returncode == 1
    assert f"{missing} is not installed" in result.stderr
    assert asked() == []


@pytest.mark.parametrize("script", [MINIKUBE, CURRENT])
def test_an_unknown_command_is_answered_with_the_usage(record, script):
    stand_in, _ = record
    for tool in ("minikube", "kubectl", "helm"):
        stand_in(tool)
    result = run(script, "sideways")
    assert result.returncode == 2
    assert "usage" in result.stderr


@pytest.fixture
def make(programs):
    """Runs make with nothing of this machine but the programs, and with these variables in the environment."""

    def run(*arguments, **environment):
        command = [MAKE, "--no-print-directory", "--silent", *arguments]
        environment = {"PATH": str(programs), "MAESTRO_LOCAL_STATE": "/state", **environment}
        return subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True)

    return run


SHOW = ("--eval", "show: ; @echo $$KUBECONFIG; echo $$NO_PROXY; echo $$no_proxy", "show")


@pytest.mark.parametrize(
    ("cluster", "kubeconfig"),
    [("local", "/state/kubeconfig"), ("minikube", f"{REPOSITORY}/.build/minikube.kubeconfig"), ("current", "/user's")],
)
def test_targets_act_on_the_cluster_that_was_started_from_here_and_not_on_the_user_s(make, cluster, kubeconfig):
    assert make(*SHOW, CLUSTER=cluster, KUBECONFIG="/user's").stdout.splitlines()[0] == kubeconfig


@pytest.mark.parametrize(
    ("given", "kept"),
    [({}, ""), ({"no_proxy": "a.test,b.test"}, ",a.test,b.test"), ({"NO_PROXY": "c.test"}, ",c.test")],
)
def test_no_proxy_is_asked_for_the_node_and_port_forwards_and_the_user_s_exceptions_stay(make, given, kept):
    both = f"127.0.0.1,localhost,{NODE_ADDRESS}{kept}"
    assert make(*SHOW, CLUSTER="local", **given).stdout.splitlines()[1:] == [both, both]


def test_images_for_the_current_cluster_are_not_built_without_a_registry_to_push_them_to(make):
    result = make("--dry-run", "images", CLUSTER="current")
    assert result.returncode != 0
    assert "as in REGISTRY=" in result.stderr
    assert "images/build.py" not in result.stdout
    result = make("--dry-run", "images", CLUSTER="current", REGISTRY="registry.test/team")
    assert "images/build.py --registry registry.test/team" in result.stdout


CHECK_CONNECTIONS = "python -m mlops.airflow.administration.check connections"
# What a target runs for a release and a namespace of the user's.
TARGETS = {
    "demo": ["python -m infrastructure.demo"],
    "ui": ["python -m infrastructure.ui"],
    "data": ["python -m infrastructure.data"],
    "install": ["python -m infrastructure.install a.yaml nowhere/images.yaml"],
    "models": ["python -m infrastructure.models list"],
    "promote": ["python -m infrastructure.models promote"],
    "rollback": ["python -m infrastructure.models rollback"],
    "uninstall": ["helm uninstall ours --namespace team --wait"],
    "check": ["helm test ours --namespace team"],
    "check-connections": [
        f"kubectl --namespace team exec deployment/ours-airflow-scheduler -c scheduler -- {CHECK_CONNECTIONS}"
    ],
    "dags": ["python -m infrastructure.dags dags"],
}


@pytest.fixture
def target(record, make):
    """Makes a target and none that it needs, with stand-ins of which one may fail; returns make's result."""
    stand_in, _ = record

    def run(name, fails_on="never"):
        for tool in ("python", "helm", "kubectl"):
            stand_in(tool, fails_on)
        needed = [word for old in ("install", "data", "images", ".venv/ready") if old != name for word in ("-o", old)]
        settings = {"PYTHON": "python", "BUILD": "nowhere", "RELEASE": "ours", "NAMESPACE": "team", "VALUES": "a.yaml"}
        return make(name, *needed, *(f"{key}={value}" for key, value in settings.items()), CLUSTER="current")

    return run


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_runs_what_it_says(target, record, name):
    result = target(name)
    assert result.returncode == 0, result.stderr
    assert record[1]() == TARGETS[name]


@pytest.mark.parametrize(("name", "fails_on"), [(name, call) for name, calls in TARGETS.items() for call in calls])
def test_a_target_fails_where_what_it_runs_fails(target, name, fails_on):
    assert target(name, fails_on.split(" ", 1)[1]).returncode != 0


def test_the_logs_of_a_check_that_failed_are_asked_for(target, record):
    target("check", fails_on="test ours")
    assert record[1]()[1].startswith("kubectl --namespace team logs ")
    assert "--field-selector status.phase=Failed" in record[1]()[1]


def test_the_demo_runs_on_what_it_has_built_installed_and_loaded(make):
    planned = make("--dry-run", "demo", CLUSTER="current", REGISTRY="registry.test/team").stdout
    steps = ("cluster up", "images/build.py", "infrastructure.install", "infrastructure.data", "infrastructure.demo")
    assert re.findall("|".join(map(re.escape, steps)), planned) == list(steps)


@pytest.fixture
def preflight(monkeypatch, tmp_path):
    """The module, as for a node that would be kept in tmp_path."""
    monkeypatch.setenv("MAESTRO_LOCAL_STATE", str(tmp_path))
    monkeypatch.syspath_prepend(str(REPOSITORY / "infrastructure/local"))
    for name in ("preflight", "steps", "config"):
        sys.modules.pop(name, None)
    yield importlib.import_module("preflight")
    for name in ("preflight", "steps", "config"):
        sys.modules.pop(name, None)


def test_preflight_names_every_problem_at_once_with_its_remedy(preflight, monkeypatch):
    monkeypatch.setattr(preflight, "MEMORY_GIB", 100_000)
    monkeypatch.setattr(preflight, "CHECKS", (preflight.memory, preflight.addresses, lambda: "use another disk"))
    with pytest.raises(preflight.Failure) as failure:
        preflight.preflight()
    assert "GiB of memory" in str(failure.value)
    assert "use another disk" in str(failure.value)


def test_preflight_asks_for_room_only_before_the_cluster_exists(preflight, monkeypatch, tmp_path):
    monkeypatch.setattr(preflight, "DISK_GIB", 10**6)
    assert "MAESTRO_LOCAL_STATE" in preflight.disk()
    (tmp_path / "initialised").touch()
    assert preflight.disk() is None


def test_preflight_asks_for_less_room_once_the_programs_are_built(preflight, monkeypatch, tmp_path):
    monkeypatch.setattr(preflight, "DISK_GIB", 10**6)
    monkeypatch.setattr(preflight, "DISK_GIB_WHEN_BUILT", 0)
    assert "the node needs 1000000" in preflight.disk()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/node").touch()
    assert preflight.disk() is None


def test_preflight_says_what_is_missing_where_modules_cannot_be_loaded(preflight, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(preflight, "_has_overlay", lambda: False)
    assert "package kmod" in preflight.overlay()


@pytest.mark.parametrize(("files", "remedy"), [({"cgroup.type": "domain"}, True), ({}, False)])
def test_preflight_names_the_remedy_for_a_container_that_sees_only_its_own_cgroup(
    preflight, monkeypatch, tmp_path, files, remedy
):
    monkeypatch.setattr(preflight, "CGROUPS", tmp_path)
    contents = {"cgroup.controllers": "cpu cpuset memory pids", "cgroup.procs": "1\n", **files}
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
    assert ("--cgroupns=host" in (preflight.cgroups() or "")) is remedy
