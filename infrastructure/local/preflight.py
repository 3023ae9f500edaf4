"""What the machine must have before anything on it is changed.

Each check returns the problem with its remedy, or nothing.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from config import BIN, CGROUPS, HOST_ADDRESS, HOST_LINK, INITIALISED, NODE_ADDRESS, NODE_PREFIX, STATE
from steps import Failure

MEMORY_GIB = 6
DISK_GIB = 20
# What building the programs takes, caches of Go included, is taken already when they are there.
DISK_GIB_WHEN_BUILT = 14
CONTROLLERS_V1 = ("cpu", "cpuacct", "cpuset", "memory", "pids", "devices", "freezer", "blkio")
CONTROLLERS_V2 = ("cpu", "cpuset", "memory", "pids")

Problem = str | None


def require_root() -> None:
    if os.geteuid() != 0:
        raise Failure("this user is not root, and namespaces, mounts and cgroups need root: run it with sudo")


def platform_supported() -> Problem:
    if platform.system() != "Linux" or platform.machine() not in ("x86_64", "aarch64"):
        return f"{platform.system()} on {platform.machine()} is not supported: use CLUSTER=minikube or CLUSTER=current"
    if not shutil.which("apt-get"):
        return "apt-get is missing: use Debian 12, CLUSTER=minikube or CLUSTER=current"
    return None


def namespaces() -> Problem:
    """Tried in a namespace that ends with the command, so nothing is left behind."""
    command = [
        "unshare",
        "--net",
        "--mount",
        "--pid",
        "--fork",
        "sh",
        "-c",
        "ip link add name try0 type veth peer name try1 && ip link add name try2 type bridge",
    ]
    if not shutil.which("ip"):
        command[-1] = "true"
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        return (
            f"namespaces cannot be made here ({result.stderr.strip()}): "
            "run on the machine itself or in a privileged container"
        )
    return None


def cgroups() -> Problem:
    unified = CGROUPS / "cgroup.controllers"
    present = unified.read_text().split() if unified.exists() else [c for c in CONTROLLERS_V1 if (CGROUPS / c).is_dir()]
    wanted = CONTROLLERS_V2 if unified.exists() else CONTROLLERS_V1
    missing = [c for c in wanted if c not in present]
    if missing:
        return (
            f"controllers are missing under {CGROUPS}: {', '.join(missing)}; "
            "enable them on the kernel's command line (cgroup_enable=...)"
        )
    if not os.access(CGROUPS if unified.exists() else CGROUPS / "memory", os.W_OK):
        return f"{CGROUPS} is read-only: run on the machine itself or in a container that mounts it writable"
    # Only groups below the root have a type, and of those one with processes hands no controller to groups below it.
    if unified.exists() and (CGROUPS / "cgroup.type").exists() and (CGROUPS / "cgroup.procs").read_text():
        return (
            f"{CGROUPS} is a group of its own with this container's processes in it, which takes no groups below it: "
            "start the container with --cgroupns=host"
        )
    return None


def overlay() -> Problem:
    if not _has_overlay() and shutil.which("modprobe"):
        subprocess.run(["modprobe", "overlay"], capture_output=True)
    if not _has_overlay():
        return "the kernel has no overlay file system: load it with 'modprobe overlay', of Debian's package kmod"
    return None


def _has_overlay() -> bool:
    return "overlay" in Path("/proc/filesystems").read_text()


def memory() -> Problem:
    total = next(
        int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal:")
    )
    if total < MEMORY_GIB * 1024**2 * 0.95:
        return f"{total / 1024**2:.1f} GiB of memory, and the platform needs {MEMORY_GIB}: use a larger machine"
    return None


def disk() -> Problem:
    place = next(parent for parent in (STATE, *STATE.parents) if parent.exists())
    free = shutil.disk_usage(place).free / 1024**3
    needed = DISK_GIB_WHEN_BUILT if (BIN / "node").exists() else DISK_GIB
    if free < needed and not INITIALISED.exists():
        return (
            f"{free:.1f} GiB free under {place}, and the node needs {needed}: "
            "free some, or set MAESTRO_LOCAL_STATE to a larger disk"
        )
    return None


def addresses() -> Problem:
    """The node's API and every port behind it live on NODE_ADDRESS, so a free address is a free set of ports."""
    if not shutil.which("ip"):
        return None
    network = HOST_ADDRESS.rpartition(".")[0]
    taken = [
        line
        for line in subprocess.run(["ip", "-o", "-4", "addr"], capture_output=True, text=True).stdout.splitlines()
        if f"{network}." in line
    ]
    strangers = [line.split()[1] for line in taken if line.split()[1] != HOST_LINK]
    if strangers:
        return (
            f"{', '.join(strangers)} has an address in {HOST_ADDRESS}/{NODE_PREFIX}, where the node's API "
            f"({NODE_ADDRESS}:6443) goes: remove that address first"
        )
    return None


CHECKS: tuple[Callable[[], Problem], ...] = (
    platform_supported,
    overlay,
    namespaces,
    cgroups,
    memory,
    disk,
    addresses,
)


def preflight() -> None:
    """Raise Failure that lists every problem at once, or return with nothing changed."""
    problems = []
    for check in CHECKS:
        problem = check()
        if problem:
            problems.append(f"{check.__name__.replace('_', ' ')}: {problem}")
    if problems:
        raise Failure("this machine cannot run the local node:\n" + "\n".join(f"  - {problem}" for problem in problems))
