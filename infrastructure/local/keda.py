"""KEDA on the node: built once from its Go module, brought to the node as an image, applied as its sources describe it.

Its module has `replace` directives, so Go builds its programs in that module alone: in a copy of it. What
Go downloads and compiles for it, 8 GB for the clients of every cloud, is not kept.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import node
import programs
from config import BIN, HERE, KEDA_MODULE, KEDA_VERSION, LOGS
from steps import Failure, logged, step

ADDON = HERE / "addons" / "keda"
IMAGE = f"localhost/keda:{KEDA_VERSION}"
# The folder of its sources that each program is built from, by which Go names it.
PROGRAMS = ("operator", "adapter")
NAMESPACE = "keda"
DEPLOYMENTS = ("keda-operator", "keda-metrics-apiserver")
METRICS = "apiservice/v1beta1.external.metrics.k8s.io"
# The operator makes certificates, ends, and is started with them; what serves the metrics waits for them.
SECONDS = 300
# What a build takes meanwhile, in bytes, and some more: a node whose disk is full ends pods.
DISK = 10 * 10**9


def folder() -> Path:
    """Where `image.tar` and `keda.yaml` are once they are built, named by what they are built from."""
    parts = [f"{KEDA_MODULE}@{KEDA_VERSION}".encode(), *(path.read_bytes() for path in sorted(ADDON.iterdir()))]
    return BIN / "built" / f"keda-{programs.digest(*parts)}"


def build() -> Path:
    """The folder with KEDA's image and manifests, made where it is missing."""
    if folder().exists():
        return folder()
    programs.install_packages()
    programs.build_binaries()  # kubectl among them
    partial = folder().parent / "partial-keda"
    if (free := shutil.disk_usage(BIN).free) < DISK:
        wanted = f"{DISK // 10**9} GB are wanted and {free // 10**9} GB free in {BIN}"
        raise Failure(f"KEDA cannot be built: {wanted}: make room, or do without KEDA (airflow.workers.hpa)")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with step(f"building KEDA {KEDA_VERSION}", usually="15 min"):
        try:
            _compile(partial / "source", partial)
            _describe(partial / "source", partial / "keda.yaml")
            _pack(partial)
        finally:
            for name in ("source", "modules", "compiled", "linked"):
                shutil.rmtree(partial / name, ignore_errors=True)
    partial.rename(folder())
    return folder()


def _compile(source: Path, partial: Path) -> None:
    """Copies the module to `source`, and makes the programs in `partial`."""
    compiler = programs.go()
    env = {
        **os.environ,
        "CGO_ENABLED": "0",
        # Else Go makes folders that are only to be read, which nobody but root removes.
        "GOFLAGS": "-buildvcs=false -modcacherw",
        "GOTOOLCHAIN": "local",
        "GOMODCACHE": str(partial / "modules"),
        "GOCACHE": str(partial / "compiled"),
        "GOTMPDIR": str(partial / "linked"),
    }
    module = [str(compiler), "mod", "download", "-json", f"{KEDA_MODULE}@{KEDA_VERSION}"]
    downloaded = subprocess.run(module, env=env, cwd=partial, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    # Of a module that cannot be had, what is wrong stands in the answer.
    answer: dict[str, str] = json.loads(downloaded.stdout or "{}")
    if "Dir" not in answer:
        raise Failure(f"{KEDA_MODULE}@{KEDA_VERSION} cannot be had: {answer.get('Error') or downloaded.stderr.strip()}")
    shutil.copytree(answer["Dir"], source)
    (partial / "linked").mkdir()
    flags = f"-s -w -X {KEDA_MODULE}/version.Version={KEDA_VERSION.removeprefix('v')}"
    packages = [f"./cmd/{program}" for program in PROGRAMS]
    logged(
        "build-keda.log",
        [compiler, "build", "-trimpath", "-ldflags", flags, "-o", f"{partial}/", *packages],
        env,
        source,
    )


def _describe(source: Path, manifests: Path) -> None:
    """Writes all of KEDA's objects, as its own kustomization and that of ADDON have them."""
    own = source / "config" / "local"
    own.mkdir()
    described = (ADDON / "kustomization.yaml").read_text().replace("VERSION", KEDA_VERSION)
    (own / "kustomization.yaml").write_text(described)
    logged("build-keda.log", [BIN / "kubectl", "kustomize", own, "--output", manifests])


def _pack(partial: Path) -> None:
    """Moves the programs in `partial` into an image, `image.tar`."""
    context = partial / "context"
    context.mkdir()
    for program in PROGRAMS:
        (partial / program).rename(context / program)
    env = {**os.environ, "STORAGE_DRIVER": "overlay", "BUILDAH_ISOLATION": "chroot"}
    logged("images.log", ["buildah", "bud", "-q", "-t", IMAGE, "-f", ADDON / "Dockerfile", context], env)
    try:
        logged("images.log", ["buildah", "push", "-q", IMAGE, f"docker-archive:{partial / 'image.tar'}:{IMAGE}"], env)
    finally:
        logged("images.log", ["buildah", "rmi", IMAGE], env)
    shutil.rmtree(context)


def apply() -> None:
    """Have KEDA run on the node, and wait until its metrics are served. Does nothing where it does."""
    built = build()
    with step("bringing KEDA to the node"):
        if IMAGE not in node.images():
            node.import_image(built / "image.tar")
        _asked("apply", "--server-side", "--force-conflicts", "-f", str(built / "keda.yaml"))
    with step("waiting for KEDA", usually="1 min"):
        for deployment in DEPLOYMENTS:
            _asked("-n", NAMESPACE, "rollout", "status", f"deployment/{deployment}", f"--timeout={SECONDS}s")
        _asked("wait", METRICS, "--for=condition=Available", f"--timeout={SECONDS}s")


def _asked(*arguments: str) -> None:
    """Raises Failure in kubectl's words where the answer is no."""
    answer = node.kubectl(*arguments)
    if answer.returncode:
        where = f"'kubectl -n {NAMESPACE} get pods' and {LOGS / 'kubelet.log'} say more"
        raise Failure(f"kubectl {' '.join(arguments)}: {answer.stderr.strip()}; {where}")
