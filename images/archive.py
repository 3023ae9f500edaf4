"""OCI archives of built images, with only those layers that whoever reads them lacks.

What buildah itself writes holds every layer of an image. Here a layer is taken from containers/storage as it lies
there: its files, and beside them `<layer>.tar-split.gz`, which is the tar that the layer was made from without the
files' contents. Both together are that very tar again, byte for byte, so its digest is the one that the image's
manifest names, and the same in each image and each delivery.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import shutil
import tarfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

# The kinds of entries in a tar-split file: the place of a file's content, and bytes of the tar between those.
_FILE, _BYTES = 1, 2
_COPIED_AT_A_TIME = 1 << 20


class ArchiveError(Exception):
    """A layer is not whole. The message says which one and what to do."""


@dataclass(frozen=True)
class Image:
    """A built image: its name, and its manifest and configuration as containers/storage has them."""

    reference: str
    manifest: bytes
    configuration: bytes

    @property
    def digests(self) -> list[str]:
        """The digests of its layers, the lowest one first."""
        return [layer["digest"] for layer in json.loads(self.manifest)["layers"]]


@dataclass(frozen=True)
class Layer:
    """A layer in containers/storage. size: the bytes of its tar."""

    digest: str
    size: int
    files: Path
    split: Path

    def write(self, output: IO[bytes]) -> None:
        """Write its tar."""
        written = 0
        with gzip.open(self.split) as entries:
            for entry in map(json.loads, entries):
                if entry["type"] == _BYTES:
                    written += output.write(base64.b64decode(entry["payload"]))
                elif entry["type"] == _FILE and entry.get("size"):
                    with open(self._path(entry), "rb") as file:
                        shutil.copyfileobj(file, output, _COPIED_AT_A_TIME)
                        written += file.tell()
        if written != self.size:
            raise ArchiveError(
                f"the layer {self.digest} in {self.files} has {written} bytes instead of {self.size}: "
                "remove all images with 'buildah rmi --all --force' and build them anew"
            )

    def _path(self, entry: Mapping[str, Any]) -> bytes:
        # A name that is no UTF-8 has a key of its own.
        name = base64.b64decode(entry["name_raw"]) if "name_raw" in entry else entry["name"].encode()
        return bytes(self.files) + b"/" + name


def layers(storage: Path) -> dict[str, Layer]:
    """The layers in containers/storage, whose driver is overlay, by digest."""
    found = {}
    for layer in json.loads((storage / "overlay-layers/layers.json").read_text()):
        # One that a build is writing at this moment says so, or has no digest yet.
        if "diff-digest" in layer and not layer.get("flags", {}).get("incomplete"):
            digest, size = layer["diff-digest"], layer["diff-size"]
            files, split = storage / "overlay" / layer["id"] / "diff", f"overlay-layers/{layer['id']}.tar-split.gz"
            found[digest] = Layer(digest, size, files, storage / split)
    return found


def lacking(images: Iterable[Image], known: Mapping[str, Layer], present: Collection[str]) -> list[Layer]:
    """The layers of the images whose digests are not present, each once."""
    digests = dict.fromkeys(digest for image in images for digest in image.digests)
    return [known[digest] for digest in digests if digest not in present]


def write(output: IO[bytes], images: Iterable[Image], carried: Iterable[Layer]) -> None:
    """Write an archive that names the images and carries some of their layers."""
    for layer in carried:
        output.write(_header(f"blobs/{layer.digest.replace(':', '/')}", layer.size))
        layer.write(output)
        output.write(_padding(layer.size))
    manifests = []
    for image in images:
        _blob(output, image.configuration)
        described = {"mediaType": json.loads(image.manifest)["mediaType"], "size": len(image.manifest)}
        name = {"io.containerd.image.name": image.reference}
        manifests.append({**described, "digest": _blob(output, image.manifest), "annotations": name})
    _file(output, "index.json", json.dumps({"schemaVersion": 2, "manifests": manifests}).encode())
    _file(output, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
    output.write(bytes(2 * tarfile.BLOCKSIZE))


def _blob(output: IO[bytes], content: bytes) -> str:
    """Write a blob; returns its digest."""
    digest = hashlib.sha256(content).hexdigest()
    _file(output, f"blobs/sha256/{digest}", content)
    return f"sha256:{digest}"


def _file(output: IO[bytes], name: str, content: bytes) -> None:
    output.write(_header(name, len(content)) + content + _padding(len(content)))


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf()


def _padding(size: int) -> bytes:
    return bytes(-size % tarfile.BLOCKSIZE)
