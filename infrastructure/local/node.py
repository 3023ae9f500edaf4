"""The life of the node: start it, stop it, find out how it is, run something in it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import network
import programs
from config import BIN, CGROUPS, HALF_STARTED, HERE, INITIALISED, KUBECONFIG, LOGS, MOUNTS, NAME, PID_FILE, STATE
from preflight import preflight
from steps import Failure, holds_within, logged, step, wait_until

# How long a node that runs may take to answer before it is started anew, with which every pod ends.
PATIENCE_SECONDS = 60
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


def _started_at(pid: int) -> str | None:
    """The tick a process started at, or None when there is no such process or it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else fields[19]


def _outer() -> int | None:
    """The process that holds the node's pid namespace from outside, when it is the one that was recorded."""
    try:
        pid, started = PID_FILE.read_text().split()
    except (FileNotFoundError, ValueError):
        return None
    return int(pid) if _started_at(int(pid)) == started else None


def _inner() -> int | None:
    """The node's first process, as the host numbers it."""
    outer = _outer()
    if outer is None:
        return None
    try:
        children = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(children[0]) if children else None


def _containerd(*arguments: str) -> list[str | Path]:
    """A command to the node's containerd, to be run from outside the node."""
    pid = _inner()
    if pid is None:
        raise Failure("the node is not running: start it with 'make cluster-up'")
    inside = ("nsenter", "-t", str(pid), "--net", "--mount", "--pid")
    return [*inside, BIN / "ctr", "-n", "k8s.io", *arguments]


def _listed(*arguments: str) -> list[str]:
    """What a command to the node's containerd prints, line by line."""
    result = subprocess.run(_containerd(*arguments), stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if result.returncode:
        raise Failure(f"ctr {' '.join(arguments)} ended with {result.returncode}: {result.stderr.strip()}")
    return result.stdout.splitlines()


def _without_proxies() -> dict[str, str]:
    """The environment without this machine's proxies, which know nothing of the node's addresses."""
    return {name: value for name, value in os.environ.items() if name.lower() not in PROXIES}


def kubectl(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "kubectl"), f"--kubeconfig={KUBECONFIG}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=_without_proxies())


def api_ready() -> bool:
    return KUBECONFIG.exists() and kubectl("get", "--raw=/readyz", "--request-timeout=2s").returncode == 0


def node_ready() -> bool:
    jsonpath = "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}"
    return kubectl("get", "nodes", "-o", jsonpath, "--request-timeout=5s").stdout == "True"


def _system_pods_run(since: datetime) -> bool:
    """Whether each pod of the system runs in a container that was started since then.

    After a restart the API server still tells what it was told before the node stopped.
    """
    listing = json.loads(
        kubectl("-n", "kube-system", "get", "pods", "-o", "json", "--request-timeout=5s").stdout or '{"items": []}'
    )
    # One that has ended, as one that was evicted has, never runs again: another stands for it.
    pods = [pod for pod in listing["items"] if pod["status"].get("phase") not in ("Succeeded", "Failed")]
    names = {pod["metadata"]["name"].partition("-")[0] for pod in pods}
    statuses = [status for pod in pods for status in pod["status"].get("containerStatuses", [])]
    started = [status["state"].get("running", {}).get("startedAt") for status in statuses]
    recent = all(start and datetime.fromisoformat(start) >= since for start in started)
    return (
        {"coredns", "metrics", "etcd"} <= names
        and len(statuses) >= len(pods)
        and recent
        and all(status["ready"] for status in statuses)
    )


def _statuses_are_of(since: datetime) -> bool:
    """Whether no pod of the cluster is still told to run in a container from before: who waits for readiness can."""
    listing = kubectl("get", "pods", "--all-namespaces", "-o", "json", "--request-timeout=5s")
    if listing.returncode:
        return False
    for pod in json.loads(listing.stdout)["items"]:
        for status in pod["status"].get("containerStatuses", []) + pod["status"].get("initContainerStatuses", []):
            started = status["state"].get("running", {}).get("startedAt")
            if started and datetime.fromisoformat(started) < since:
                return False
    return True


def build() -> None:
    """Build kubectl, helm and the node's other programs."""
    LOGS.mkdir(parents=True, exist_ok=True)
    programs.build_binaries()


def _answers() -> bool:
    return api_ready() and node_ready()


def _runs() -> bool:
    """Whether the node is up and Ready. One whose first process lives is given time to answer."""
    if not (_inner() and INITIALISED.exists()) or HALF_STARTED.exists():
        return False
    if not _answers():
        with step("waiting for the running node to answer"):
            holds_within(lambda: _inner() is None or _answers(), PATIENCE_SECONDS)
    return _inner() is not None and _answers()


def up() -> None:
    """Bring the node up from whatever state it is in. Does nothing when it runs."""
    if _runs():
        print(f"[cluster] already running; KUBECONFIG={KUBECONFIG}")
        return
    with step("checking this machine"):
        preflight()
    STATE.mkdir(parents=True, exist_ok=True)
    LOGS.mkdir(exist_ok=True)
    programs.install_packages()
    programs.build_binaries()
    archives = programs.build_node_images()
    with step("clearing what an earlier run left"):
        _end()
    first = not INITIALISED.exists()
    if first:
        _wipe()
    images: dict[str, list[str]] = {}
    for archive in archives:
        target = archive.stem.rpartition("-")[0]
        images[str(archive)] = [name for name, built_from in programs.node_images().items() if built_from == target]
    (STATE / "images.json").write_text(json.dumps(images))
    started = datetime.now(UTC).replace(microsecond=0)
    with step("creating the control plane" if first else "starting the control plane", usually="20 s"):
        HALF_STARTED.touch()
        network.create()
        _start()
        wait_until(
            lambda: _ended() or (STATE / "kubernetes" / "admin.conf").exists(),
            120,
            "kubeadm's kubeconfig",
            LOGS / "kubeadm.log",
        )
        _write_kubeconfig()
        wait_until(
            lambda: _ended() or (INITIALISED.exists() and api_ready()),
            240,
            "an answer of the API server",
            LOGS / "node.log",
        )
    with step("waiting for the node and its add-ons"):
        _apply_addons()
        HALF_STARTED.unlink()
        wait_until(
            lambda: _ended() or _system_pods_run(started), 240, "the start of the system's pods", LOGS / "kubelet.log"
        )
        wait_until(lambda: _ended() or node_ready(), 120, "a Ready node", LOGS / "kubelet.log")
        wait_until(lambda: _ended() or _statuses_are_of(started), 180, "news of every pod", LOGS / "kubelet.log")
    print(f"[cluster] ready; KUBECONFIG={KUBECONFIG}")


def _ended() -> bool:
    """Never true: raises Failure when the node has ended by itself."""
    if _outer() is None:
        raise Failure(f"the node ended by itself; read {LOGS / 'node.log'} and {LOGS / 'kubeadm.log'}")
    return False


def _start() -> None:
    with (LOGS / "node.log").open("ab") as log:
        # nsenter first: 'ip netns exec' would hide the host's cgroups. A session of its own, so that neither a closed
        # terminal nor a killed process group takes the node along.
        process = subprocess.Popen(
            [
                *network.entered(),
                *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"),
                *(sys.executable, str(HERE / "init.py")),
            ],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/",
            env={**_without_proxies(), "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
    PID_FILE.write_text(f"{process.pid} {_started_at(process.pid)}")


def _write_kubeconfig() -> None:
    KUBECONFIG.unlink(missing_ok=True)
    KUBECONFIG.touch(mode=0o600)
    KUBECONFIG.write_text((STATE / "kubernetes" / "admin.conf").read_text())


def _apply_addons() -> None:
    addons = ["apply", "--server-side", "--force-conflicts", "-f", str(HERE / "addons")]
    wait_until(lambda: kubectl(*addons).returncode == 0, 60, "the add-ons' creation")
    scale = ["-n", "kube-system", "scale", "deployment/coredns", "--replicas=1"]
    wait_until(lambda: kubectl(*scale).returncode == 0, 60, "the scaling of CoreDNS to one replica")


def down() -> None:
    """Stop the node and keep its data. Does nothing when it does not run."""
    with step("stopping the node"):
        _end()


def _end() -> None:
    inner, outer = _inner(), _outer()
    if inner:
        os.kill(inner, signal.SIGTERM)
        holds_within(lambda: not _started_at(inner), 15)
    if outer and _started_at(outer):
        os.kill(outer, signal.SIGKILL)  # its child goes with it
        wait_until(lambda: not _started_at(outer), 10, "the end of the node's processes")
    PID_FILE.unlink(missing_ok=True)
    network.delete()
    _remove_cgroups()


def _remove_cgroups() -> None:
    """The node's groups, once the kernel has emptied them, a moment after their processes were killed.

    The next kubelet would look for the container of each that is left, for three seconds, before it does anything else.
    """
    holds_within(_remove_empty_cgroups, 10)


def _remove_empty_cgroups() -> bool:
    """Removes the groups that are empty; whether those were all."""
    none_left = True
    hierarchies = [CGROUPS / NAME, *(c / NAME for c in CGROUPS.iterdir() if c.is_dir())]
    for top in hierarchies:
        for group in sorted((g for g in top.rglob("*") if g.is_dir()), reverse=True) if top.is_dir() else ():
            try:
                group.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                none_left = False
    return none_left


def _wipe() -> None:
    """Remove the cluster, not the programs it is made of."""
    # First, so that a cluster of which only a part was removed is never started.
    INITIALISED.unlink(missing_ok=True)
    KUBECONFIG.unlink(missing_ok=True)
    for name in MOUNTS:
        try:
            shutil.rmtree(STATE / name)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise Failure(
                f"{STATE / name} cannot be removed ({error}): end what uses it, and run the same command again"
            ) from error


def delete() -> None:
    """Stop the node and remove its data: every volume, image and object of the cluster. Built programs stay."""
    down()
    with step("removing the cluster's data"):
        _wipe()


def status() -> int:
    """Print how the node is; 0 when it is ready, 3 when it is not (as init scripts do)."""
    pid = _inner()
    if pid is None:
        print(
            "stopped: start it with 'make cluster-up'"
            if INITIALISED.exists()
            else "not created: create it with 'make cluster-up'"
        )
        return 3
    if not api_ready():
        print(
            f"running (pid {pid}), but the API server does not answer: read {LOGS / 'node.log'}, "
            "or restart it with 'make cluster-up'"
        )
        return 3
    print(f"running (pid {pid}); KUBECONFIG={KUBECONFIG}")
    print(kubectl("get", "nodes", "-o", "wide").stdout, end="")
    print(kubectl("get", "pods", "-A").stdout, end="")
    return 0 if node_ready() else 3


def images() -> list[str]:
    """The references of the images that the node has whole: every layer, unpacked."""
    return _listed("images", "check", "--quiet")


def blobs() -> list[str]:
    """The digests of all that the node's containerd keeps: layers, configurations and manifests."""
    return _listed("content", "ls", "--quiet")


def import_image(archive: Path) -> None:
    """Give the node the image in an archive."""
    logged("images.log", _containerd("images", "import", str(archive)))


def load(references: Sequence[str]) -> None:
    """Import the images in an OCI archive on standard input, which may leave out what `blobs` tells.

    containerd names an image when it is unpacked, so an import that is interrupted can be done again. Of what was left
    out something may have been removed meanwhile, with the last image that had it: then the image keeps no name.
    """
    logged("images.log", _containerd("images", "import", "-"), stdin=sys.stdin)
    if partial := sorted(set(references).difference(images())):
        logged("images.log", _containerd("images", "rm", *partial))
        raise Failure(f"the node lost layers of {', '.join(partial)} meanwhile: run the same command again")
