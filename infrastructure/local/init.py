"""The first process of the node, pid 1 of its pid namespace.

It mounts what the node needs, then runs containerd, kubelet and kube-proxy, and starts them again when they end.

Its own end is the end of every process of the node, pods included. SIGTERM asks them all to end first.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

from config import (
    BIN,
    CGROUPS,
    COREDNS_VERSION,
    ETCD_VERSION,
    INITIALISED,
    KUBERNETES_VERSION,
    LOGS,
    MOUNTS,
    NAME,
    NODE_ADDRESS,
    NODE_POD_SUBNET,
    PAUSE_VERSION,
    POD_SUBNET,
    SERVICE_SUBNET,
    STATE,
)

ADMIN = "/etc/kubernetes/admin.conf"
GRACE_SECONDS = 10

CONTAINERD = f"""version = 3
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "localhost/pause:{PAUSE_VERSION}"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/usr/lib/cni"]
    conf_dir = "/etc/cni/net.d"
"""

CNI = {
    "cniVersion": "1.0.0",
    "name": NAME,
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "ipMasq": True,
            "hairpinMode": True,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": NODE_POD_SUBNET}]], "routes": [{"dst": "0.0.0.0/0"}]},
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}

KUBEADM = [
    {
        "apiVersion": "kubeadm.k8s.io/v1beta4",
        "kind": "InitConfiguration",
        "localAPIEndpoint": {"advertiseAddress": NODE_ADDRESS, "bindPort": 6443},
        "nodeRegistration": {
            "name": NAME,
            "criSocket": "unix:///run/containerd/containerd.sock",
            "imagePullPolicy": "IfNotPresent",
            "taints": [],
            "kubeletExtraArgs": [{"name": "node-ip", "value": NODE_ADDRESS}],
        },
    },
    {
        "apiVersion": "kubeadm.k8s.io/v1beta4",
        "kind": "ClusterConfiguration",
        "kubernetesVersion": KUBERNETES_VERSION,
        "imageRepository": "localhost",
        "networking": {"podSubnet": POD_SUBNET, "serviceSubnet": SERVICE_SUBNET},
        "dns": {"imageRepository": "localhost", "imageTag": COREDNS_VERSION},
        "etcd": {"local": {"imageTag": ETCD_VERSION}},
        # As long as kubeadm's authority lasts: nobody renews them each year. It counts when a cluster is made.
        "certificateValidityPeriod": "87600h",
    },
    {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{NAME}",
        # Version 1 of cgroups is what many hosts have; Kubernetes 1.35 is the last to take it.
        "failCgroupV1": False,
        "failSwapOn": False,
        # Lowering the score needs a capability that a container of the host need not have.
        "oomScoreAdj": 0,
        "resolvConf": "/run/resolv.conf",
        "maxPods": 200,
        "serializeImagePulls": False,
        "imageGCHighThresholdPercent": 100,
        "shutdownGracePeriod": "0s",
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
    },
]


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def prepare() -> None:
    """Mounts, cgroups and configuration files."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (20000, 20000))
    mount("-t", "proc", "proc", "/proc")
    mount("--make-rshared", "/")
    for name, place in MOUNTS.items():
        (STATE / name).mkdir(parents=True, exist_ok=True)
        Path(place).mkdir(parents=True, exist_ok=True)
        mount("--bind", str(STATE / name), place)
        mount("--make-rshared", place)
    mount("-t", "tmpfs", "tmpfs", "/run")
    mount("--make-rshared", "/run")
    for directory in ("/run/containerd", "/run/lock", "/etc/cni/net.d"):
        Path(directory).mkdir(parents=True, exist_ok=True)
    # Addresses that an earlier start of the node gave to pods are free again: none of those pods runs.
    subprocess.run(["rm", "-rf", "/var/lib/cni/networks"], check=True)
    # Not a loopback address, which CoreDNS would take for itself; nothing answers there and nothing has to.
    Path("/run/resolv.conf").write_text("nameserver 192.0.2.1\n")
    Path("/etc/cni/net.d/10-bridge.conflist").write_text(json.dumps(CNI))
    (STATE / "containerd.toml").write_text(CONTAINERD)
    (STATE / "kubeadm.yaml").write_text("\n---\n".join(json.dumps(document) for document in KUBEADM))
    make_cgroups()


def make_cgroups() -> None:
    if (CGROUPS / "cgroup.controllers").exists():
        controllers = [
            c
            for c in (CGROUPS / "cgroup.controllers").read_text().split()
            if c in ("cpu", "cpuset", "memory", "pids", "io", "hugetlb")
        ]
        enable = " ".join(f"+{c}" for c in controllers)
        (CGROUPS / "cgroup.subtree_control").write_text(enable)
        (CGROUPS / NAME).mkdir(exist_ok=True)
        (CGROUPS / NAME / "cgroup.subtree_control").write_text(enable)
        return
    for controller in CGROUPS.iterdir():
        if controller.is_dir() and controller.name != "unified":
            (controller / NAME).mkdir(exist_ok=True)
    # A new cpuset has neither processors nor memory nodes and takes no process until it has.
    for name in ("cpuset.cpus", "cpuset.mems"):
        (CGROUPS / "cpuset" / NAME / name).write_text((CGROUPS / "cpuset" / name).read_text())


class Supervisor:
    """Keeps the node's processes running and reaps every orphan, which is pid 1's duty."""

    def __init__(self) -> None:
        self.commands: dict[str, list[str]] = {}
        # With the object of each: once it is dropped, Python reaps the process itself when it starts another one, and
        # reap() never hears of its end.
        self.running: dict[int, tuple[str, subprocess.Popen[bytes]]] = {}
        self.ending = False

    def start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        self.commands[name] = list(command)
        with (LOGS / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.running[process.pid] = name, process
        return process

    def reap(self) -> None:
        """Collect processes that ended; start those of the node again, a second later, lest a broken one spins."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid not in self.running:
                continue
            name, process = self.running.pop(pid)
            process.returncode = os.waitstatus_to_exitcode(status)
            if not self.ending:
                print(f"{time.strftime('%H:%M:%S')} {name} ended: starting it again", flush=True)
                time.sleep(1)
                self.start(name, *self.commands[name])

    def end(self, *_: object) -> None:
        """Ask all processes to end, the kubelet first so that it starts none again, and end with them."""
        self.ending = True
        for pid, (name, _process) in list(self.running.items()):
            if name == "kubelet":
                os.kill(pid, signal.SIGKILL)
        os.kill(-1, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < deadline:
            self.reap()
            if not busy():
                break
            time.sleep(0.1)
        sys.exit(0)


def busy() -> bool:
    """Whether any process still has something to finish: a pod's pause process and its shim never do."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and entry.name != "1":
            try:
                name = (entry / "comm").read_text().strip()
            except OSError:
                continue
            if name not in ("busybox", "containerd-shim"):
                return True
    return False


def wait_for_containerd(containerd: subprocess.Popen[bytes]) -> None:
    while containerd.poll() is None:
        # The command waits seconds for a socket that is not there.
        socket = Path("/run/containerd/containerd.sock")
        if socket.exists() and subprocess.run(["ctr", "version"], capture_output=True).returncode == 0:
            return
        time.sleep(0.1)
    sys.exit(f"containerd ended with {containerd.returncode}: read {LOGS / 'containerd.log'}")


def load_images() -> None:
    present = subprocess.run(
        ["ctr", "-n", "k8s.io", "images", "ls", "-q"], capture_output=True, text=True, check=True
    ).stdout.split()
    images: dict[str, list[str]] = json.loads((STATE / "images.json").read_text())
    for archive, names in images.items():
        marker = f"{names[0].rpartition(':')[0]}-archive:{Path(archive).stem}"
        if marker in present and all(name in present for name in names):
            continue
        subprocess.run(["ctr", "-n", "k8s.io", "images", "import", archive], check=True)
        for name in [*names[1:], marker]:
            subprocess.run(
                ["ctr", "-n", "k8s.io", "images", "tag", "--force", names[0], name],
                check=True,
                stdout=subprocess.DEVNULL,
            )


def kubelet_arguments() -> list[str]:
    return [
        str(BIN / "kubelet"),
        "--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf",
        "--kubeconfig=/etc/kubernetes/kubelet.conf",
        "--config=/var/lib/kubelet/config.yaml",
        f"--hostname-override={NAME}",
        f"--node-ip={NODE_ADDRESS}",
    ]


def main() -> None:
    supervisor = Supervisor()
    prepare()
    os.environ["PATH"] = f"{BIN}:{os.environ['PATH']}"
    wait_for_containerd(supervisor.start("containerd", "containerd", "-c", str(STATE / "containerd.toml")))
    load_images()
    if not INITIALISED.exists():
        # kubeadm writes the kubelet's configuration, then waits for it: there is no service manager to start it.
        with (LOGS / "kubeadm.log").open("ab") as log:
            command = [
                "kubeadm",
                "init",
                "--config",
                str(STATE / "kubeadm.yaml"),
                "--ignore-preflight-errors=all",
                "--skip-phases=addon/kube-proxy",
            ]
            kubeadm = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            while not Path("/var/lib/kubelet/config.yaml").exists() and kubeadm.poll() is None:
                time.sleep(0.1)
            supervisor.start("kubelet", *kubelet_arguments())
            if kubeadm.wait():
                sys.exit(f"kubeadm init ended with {kubeadm.returncode}: read {LOGS / 'kubeadm.log'}")
        INITIALISED.touch()
    else:
        supervisor.start("kubelet", *kubelet_arguments())
    supervisor.start(
        "kube-proxy",
        str(BIN / "kube-proxy"),
        f"--kubeconfig={ADMIN}",
        f"--cluster-cidr={POD_SUBNET}",
        f"--hostname-override={NAME}",
        # The host's limit on connections is not the node's to change.
        "--conntrack-max-per-core=0",
    )  # fmt: skip
    supervisor.start(
        "volume-provisioner",
        str(BIN / "volume-provisioner"),
        f"--kubeconfig={ADMIN}",
        f"--root={MOUNTS['volumes']}",
        f"--node={NAME}",
    )
    supervisor.start("network-policy", str(BIN / "network-policy"), f"--kubeconfig={ADMIN}")
    signal.signal(signal.SIGTERM, supervisor.end)
    while True:
        supervisor.reap()
        time.sleep(1)


if __name__ == "__main__":
    main()
