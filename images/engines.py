"""The programs that build images: buildah for the local node, minikube for itself, docker for a registry."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import IO

import archive
import debian

# What a build takes over from the one who builds, for as long as it lasts.
PASSED_ON = (
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
    *("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST"),
    *("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_INSECURE_HOST"),
    *("GOPROXY", "GOPRIVATE", "GONOPROXY", "GONOSUMDB", "GOSUMDB", "GOINSECURE", "GOFLAGS"),
)
LOG_TAIL = 20
PIPE_BYTES = 1 << 20
BUILDAH_REMEDY = "'python3 infrastructure/local packages' installs it; or use --engine docker"


class BuildError(Exception):
    """An image cannot be built or delivered. The message says why and which log to read."""


class Log:
    """The log of one image: commands and all they say."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")

    def run(self, command: Sequence[str | Path], environment: dict[str, str] | None = None) -> None:
        """Run a command; raise BuildError with the log's end when it fails or is not there."""
        self.feed(command, lambda _: None, environment)

    def feed(
        self,
        command: Sequence[str | Path],
        write: Callable[[IO[bytes]], None],
        environment: dict[str, str] | None = None,
    ) -> None:
        """Run a command as `run` does, and write what it reads from its standard input."""
        words = [str(word) for word in command]
        with self.path.open("ab") as output:
            output.write(f"$ {shlex.join(words)}\n".encode())
            output.flush()
            try:
                process = subprocess.Popen(
                    words, stdin=subprocess.PIPE, stdout=output, stderr=output, env=environment, pipesize=PIPE_BYTES
                )
            except FileNotFoundError:
                raise BuildError(f"{words[0]} is not installed") from None
            # One that ends before it has read all says itself why.
            with suppress(BrokenPipeError), process:
                assert process.stdin is not None  # noqa: S101 - a pipe was asked for
                write(process.stdin)
        if process.returncode:
            end = "\n".join(f"    {line}" for line in self.tail(LOG_TAIL))
            raise BuildError(
                f"{shlex.join(words[:3])} ended with {process.returncode}; the log is {self.path} and ends with:\n{end}"
            )

    def tail(self, lines: int) -> list[str]:
        return self.path.read_text(errors="replace").splitlines()[-lines:]


def succeeds(command: Sequence[str], environment: dict[str, str] | None = None) -> bool:
    """Whether a command ends with 0."""
    quiet = subprocess.DEVNULL
    return subprocess.run(command, stdin=quiet, stdout=quiet, stderr=quiet, env=environment).returncode == 0


def require(program: str, remedy: str) -> None:
    if not shutil.which(program):
        raise BuildError(f"{program} is not installed: {remedy}")


@contextmanager
def build_secrets() -> Iterator[list[str]]:
    """Options that hand PASSED_ON and the certificates of a private authority (SSL_CERT_FILE) to a build as secrets."""
    with tempfile.NamedTemporaryFile("w", prefix="build-environment-") as file:
        file.writelines(f"{name}={shlex.quote(os.environ[name])}\n" for name in PASSED_ON if name in os.environ)
        file.flush()
        options = ["--secret", f"id=build-environment,src={file.name}"]
        bundle = os.environ.get("SSL_CERT_FILE")
        if bundle and Path(bundle).is_file():
            options += ["--secret", f"id=ca-bundle,src={bundle}"]
        yield options


class Engine:
    """What the build asks of a program. A reference is `registry/name:tag`."""

    # The image below `base`; None: the one that its Dockerfile names.
    debian: str | None = None

    def prepare(self, log: Log) -> None:
        """Check for the program, and make what the first build needs."""

    def has(self, reference: str) -> bool:
        """Whether the image is there to build others on."""
        raise NotImplementedError

    def build(self, reference: str, context: Path, log: Log) -> None:
        raise NotImplementedError

    def delivered(self, reference: str) -> bool:
        """Whether the cluster finds the image."""
        return self.has(reference)

    def deliver(self, references: Sequence[str], log: Log) -> str:
        """Bring built images to where the cluster finds them; returns what was moved, nothing where they are there."""
        return ""


class Buildah(Engine):
    """Needs neither a daemon nor a registry: Debian comes from debootstrap, and the node is given the layers it lacks.

    node: a command that, with a word added, prints the references of the images that the node has whole (`images`) or
    the digests of all that it has (`blobs`), or imports the OCI archive that it reads (`load`, with its references).
    Without it images are built only.
    """

    debian = debian.IMAGE

    def __init__(self, node: str = "") -> None:
        self.node = shlex.split(node)
        # Inside containers, too, these work without privileges that root there lacks.
        self.environment = {"STORAGE_DRIVER": "overlay", "BUILDAH_ISOLATION": "chroot", **os.environ}

    def prepare(self, log: Log) -> None:
        require("buildah", BUILDAH_REMEDY)
        if self.has(debian.IMAGE):
            return
        require("debootstrap", BUILDAH_REMEDY)
        if os.geteuid() != 0:
            raise BuildError("debootstrap needs root: run this as root, or use --engine docker")
        with tempfile.TemporaryDirectory() as folder:
            context = Path(folder)
            log.run(["debootstrap", "--variant=minbase", debian.RELEASE, context / "root"])
            debian.slim(context / "root")
            # An archive keeps owners and modes, which COPY of a folder does not.
            log.run(
                [
                    "tar",
                    "--create",
                    "--numeric-owner",
                    "--one-file-system",
                    "-C",
                    context / "root",
                    "-f",
                    context / "root.tar",
                    ".",
                ]
            )
            shutil.rmtree(context / "root")
            (context / "Dockerfile").write_text('FROM scratch\nADD root.tar /\nCMD ["bash"]\n')
            self.build(debian.IMAGE, context, log)

    def has(self, reference: str) -> bool:
        return succeeds(["buildah", "inspect", "--type", "image", reference], self.environment)

    def build(self, reference: str, context: Path, log: Log) -> None:
        with build_secrets() as secrets:
            log.run(
                ["buildah", "build", "--layers", "--force-rm", "--pull=never", *secrets, "--tag", reference, context],
                self.environment,
            )

    def delivered(self, reference: str) -> bool:
        return reference in self._images_of_node if self.node else self.has(reference)

    def deliver(self, references: Sequence[str], log: Log) -> str:
        if not self.node:
            return ""
        images = [self.image(reference) for reference in references]
        carried = archive.lacking(images, archive.layers(self.storage), self._blobs_of_node)
        log.feed([*self.node, "load", *references], lambda output: archive.write(output, images, carried))
        self._blobs_of_node.update(layer.digest for layer in carried)
        return f"{sum(layer.size for layer in carried) / 1e6:.1f} MB in {len(carried)} layers"

    @cached_property
    def _images_of_node(self) -> set[str]:
        return set(self._answer([*self.node, "images"]).split())

    @cached_property
    def _blobs_of_node(self) -> set[str]:
        return set(self._answer([*self.node, "blobs"]).split())

    @cached_property
    def storage(self) -> Path:
        """Where buildah keeps what it has built."""
        info = self._answer(["buildah", "info", "--format", "{{.store.GraphDriverName}} {{.store.GraphRoot}}"])
        driver, root = info.strip().split(" ", 1)
        if driver != "overlay":
            raise BuildError(f"buildah keeps images by the driver {driver}: set STORAGE_DRIVER to overlay, or unset it")
        return Path(root)

    def image(self, reference: str) -> archive.Image:
        """A built image as buildah has it."""
        kept = json.loads(self._answer(["buildah", "inspect", "--type", "image", reference]))
        return archive.Image(reference, kept["Manifest"].encode(), kept["Config"].encode())

    def _answer(self, command: Sequence[str]) -> str:
        """What a command prints; raises BuildError with what it says when it fails."""
        result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=self.environment)
        if result.returncode:
            raise BuildError(f"{shlex.join(command)} ended with {result.returncode}: {result.stderr.strip()}")
        return result.stdout


class Docker(Engine):
    """Builds with docker's BuildKit, and pushes to the registry when told to."""

    def __init__(self, push: bool = False) -> None:
        self.push = push

    def prepare(self, log: Log) -> None:
        require("docker", "install it, or use --engine buildah")

    def has(self, reference: str) -> bool:
        return succeeds(["docker", "image", "inspect", reference])

    def build(self, reference: str, context: Path, log: Log) -> None:
        with build_secrets() as secrets:
            command = ["docker", "build", *secrets, "--tag", reference, str(context)]
            log.run(command, {**os.environ, "DOCKER_BUILDKIT": "1"})

    def delivered(self, reference: str) -> bool:
        return succeeds(["docker", "manifest", "inspect", reference]) if self.push else self.has(reference)

    def deliver(self, references: Sequence[str], log: Log) -> str:
        for reference in references if self.push else ():
            log.run(["docker", "push", reference])
        return "pushed" if self.push else ""


class Minikube(Engine):
    """Builds inside minikube, where its pods find the images. The node's own network and certificates count."""

    def __init__(self, profile: str) -> None:
        self.command = ["minikube", "--profile", profile, "image"]
        # Two builds at a time ask and tell this at the same time.
        self.lock = threading.Lock()
        self.known: set[str] | None = None

    def prepare(self, log: Log) -> None:
        require("minikube", "install it, or use --engine buildah")

    def has(self, reference: str) -> bool:
        with self.lock:
            if self.known is None:
                listing = subprocess.run(
                    [*self.command, "ls"], stdin=subprocess.DEVNULL, capture_output=True, text=True
                )
                self.known = set(listing.stdout.split())
            return reference in self.known

    def build(self, reference: str, context: Path, log: Log) -> None:
        log.run([*self.command, "build", "--tag", reference, context])
        with self.lock:
            self.known = None
        # minikube has ended with 0 after a failed build.
        if not self.has(reference):
            raise BuildError(f"minikube has no {reference} after its build; the log is {log.path}")
