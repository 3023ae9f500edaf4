"""`make install` by a stand-in for helm, from each state that an earlier attempt may have left."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from infrastructure import install
from tests.unit.programs import stand_in

HELM = """#!/bin/sh
echo "$*" >> {calls}
case "$1" in
  {fails}) echo 'level=INFO msg="found symbolic link in path"' >&2; echo 'the cause' >&2; exit 3;;
  list) echo '{listing}';;
esac
"""
Helm = Callable[..., list[str]]


@pytest.fixture
def helm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Helm:
    """Installs with a helm whose list shows the release in a state; returns what helm is asked to do."""

    def calls(status: str | None, *values: str, code: int = 0, fails: str = "never") -> list[str]:
        record = tmp_path / "calls"
        listing = json.dumps([{"name": "maestro", "status": status}] if status else [])
        stand_in(tmp_path, monkeypatch, "helm", HELM.format(calls=record, listing=listing, fails=fails))
        stand_in(tmp_path, monkeypatch, "kubectl", "#!/bin/sh\necho the pods as they are\n")
        assert install.main(list(values)) == code
        return record.read_text().splitlines()

    return calls


@pytest.mark.parametrize(
    ("status", "asked"),
    [
        (None, ["upgrade"]),
        ("deployed", ["upgrade"]),
        ("failed", ["upgrade"]),
        ("pending-install", ["uninstall", "upgrade"]),
        ("uninstalling", ["uninstall", "upgrade"]),
        ("pending-upgrade", ["rollback", "upgrade"]),
        ("pending-rollback", ["rollback", "upgrade"]),
    ],
)
def test_an_interrupted_attempt_is_cleared_away_first(helm: Helm, status: str | None, asked: list[str]) -> None:
    calls = helm(status, "values.yaml")
    assert [call.split()[0] for call in calls] == ["list", *asked]
    assert all(" maestro " in call for call in calls[1:]), "each names the release"
    assert all("--namespace maestro" in call for call in calls)
    removals = [call for call in calls if call.startswith("uninstall")]
    assert all("--wait" in call for call in removals), "nothing is installed beside what is still being removed"


def test_the_last_file_of_values_counts_most_and_the_end_is_waited_for(helm: Helm) -> None:
    _, call = helm(None, "first.yaml", "last.yaml")
    assert call.startswith("upgrade --install maestro charts/maestro ")
    assert "--values first.yaml --values last.yaml --wait --timeout" in call
    assert "--create-namespace" in call


def test_the_namespace_is_labelled_so_that_the_cluster_refuses_pods_that_are_less_than_restricted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    applied = tmp_path / "applied"
    stand_in(
        tmp_path, monkeypatch, "kubectl", f'#!/bin/sh\ncat > {applied}\ncase "$*" in "apply "*) ;; *) exit 1;; esac\n'
    )
    install.restrict("ours")
    namespace = json.loads(applied.read_text())
    assert (namespace["kind"], namespace["metadata"]["name"]) == ("Namespace", "ours")
    assert namespace["metadata"]["labels"] == {"pod-security.kubernetes.io/enforce": "restricted"}
    stand_in(tmp_path, monkeypatch, "kubectl", "#!/bin/sh\necho 'namespaces is forbidden' >&2; exit 1\n")
    install.restrict("ours")
    said = capfd.readouterr().err
    assert "namespaces is forbidden" in said
    assert "kubectl label namespace ours pod-security.kubernetes.io/enforce=restricted" in said


def test_helm_s_failure_is_that_of_the_installation_with_its_cause_and_the_pods(
    helm: Helm, capfd: pytest.CaptureFixture[str]
) -> None:
    helm("deployed", "values.yaml", code=3, fails="upgrade")
    said = capfd.readouterr()
    assert said.err == "the cause\n"
    assert "the pods as they are" in said.out


@pytest.mark.parametrize(
    ("status", "fails"), [("pending-install", "uninstall"), ("pending-upgrade", "rollback"), (None, "list")]
)
def test_nothing_is_installed_over_what_could_not_be_cleared_away(
    helm: Helm, tmp_path: Path, status: str | None, fails: str
) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        helm(status, "values.yaml", fails=fails)
    assert "upgrade" not in (tmp_path / "calls").read_text()
