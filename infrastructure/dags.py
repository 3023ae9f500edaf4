"""`make dags`: put the files of a folder over the DAG files of the running release, in one step, or the image's.

By the release's own Job `airflow-dags`, the only one who may write to their volume: a copy of it is told of the files,
which a ConfigMap holds. So it needs no way into a pod that runs DAGs, and no pod that runs them can change them.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import sys
import tarfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from infrastructure.release import NotInstalled, find, kubectl, succeeded
from mlops.kubelet import literal

COMPONENT = "airflow-dags"
SECONDS = 600
# Of an object in Kubernetes, in base64 and with its name.
_MOST_BYTES = 700_000
_GIVEN = "/given"
_ARCHIVE = "files.tar.gz"
_SOURCES = (
    "airflow.dags.persistence.enabled in the values has a volume for them; without it they come with the image, by "
    "'make install', or by a commit to the repository of airflow.dags.gitSync"
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make dags", description="Put DAG files into the running release")
    parser.add_argument("folder", type=Path, nargs="?", help="the image's own files where none is given")
    folder = parser.parse_args(arguments).folder
    try:
        print(restore() if folder is None else put(files_of(folder)), end="", flush=True)
    except (NotInstalled, TimeoutError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def files_of(folder: Path) -> dict[str, bytes]:
    """Contents by path of all files in a folder but those of git and what Python compiled. Raises ValueError."""
    files = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not {"__pycache__", ".git"} & set(path.relative_to(folder).parts)
    }
    if not files:
        raise ValueError(f"there are no files in {folder}: name a folder with DAG files, as in DAGS=dags")
    return files


def put(files: Mapping[str, bytes], removed: Sequence[str] = ()) -> str:
    """Puts files over those that are current and takes the `removed` away; what was done.

    Raises NotInstalled where there is no volume or it failed, TimeoutError, and ValueError where files are too large.
    """
    release = described()
    given = make_config_map(release, archive(files))
    kubectl("create", "-f", "-", stdin=json.dumps(given))
    try:
        return _run(make_job(release, given["metadata"]["name"], removed))
    finally:
        kubectl("delete", "configmap", given["metadata"]["name"], check=False)


def restore() -> str:
    """Brings the files of the release's image, and no others; what was done. Raises as `put`."""
    return _run(make_job(described()))


def described() -> dict[str, Any]:
    """The release's Job. Raises NotInstalled where DAG files are on no volume, with what to do."""
    try:
        return find("job", COMPONENT)
    except NotInstalled as error:
        raise NotInstalled(f"{error}. {_SOURCES}") from error


def archive(files: Mapping[str, bytes]) -> bytes:
    """The files as a .tar.gz. Raises ValueError where it is more than an object in Kubernetes may be."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    if len(written.getvalue()) > _MOST_BYTES:
        raise ValueError(
            f"the DAG files are {len(written.getvalue())} bytes compressed, and {_MOST_BYTES} can be put: leave out "
            "what is no DAG file, or bring them with the image or by airflow.dags.gitSync"
        )
    return written.getvalue()


def make_config_map(release: Mapping[str, Any], content: bytes) -> dict[str, Any]:
    """The ConfigMap that holds an archive until it is put; it goes with the release's Job."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"{_name(release)}-{uuid.uuid4().hex[:8]}", "ownerReferences": _owners(release)},
        "binaryData": {_ARCHIVE: base64.b64encode(content).decode()},
    }


def make_job(release: Mapping[str, Any], given: str = "", removed: Sequence[str] = ()) -> dict[str, Any]:
    """A copy of the release's Job, which brings the archive of the ConfigMap `given`, or else the image's files."""
    template = json.loads(json.dumps(release["spec"]["template"]))
    labels = template["metadata"]["labels"]
    # What Kubernetes has added, by which it would take the pods for those of the release's Job.
    added = ("controller-uid", "job-name")
    template["metadata"]["labels"] = {key: labels[key] for key in labels if not key.endswith(added)}
    template["spec"]["restartPolicy"] = "Never"  # a pod that failed stays, and its log can be read
    (container,) = template["spec"]["containers"]
    if given:
        (script,) = (line for line in container["args"][-1].splitlines() if " image " in line)
        add = [*script.replace(" image ", " add ").split(), "--archive", f"{_GIVEN}/{_ARCHIVE}"]
        container["args"] = [*add, *(("--remove", *map(literal, removed)) if removed else ())]
        container["volumeMounts"].append({"name": "given", "mountPath": _GIVEN, "readOnly": True})
        template["spec"]["volumes"].append({"name": "given", "configMap": {"name": given}})
    else:  # whatever was brought before
        container["env"] = [entry for entry in container["env"] if entry["name"] != "DAGS_OF"]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        # With labels of its own: one without any gets those of its pods, by which the release's is found.
        "metadata": {
            "generateName": f"{_name(release)}-put-",
            "labels": {"app.kubernetes.io/part-of": "maestro"},
            "ownerReferences": _owners(release),
        },
        "spec": {
            "backoffLimit": 3,
            "activeDeadlineSeconds": SECONDS,
            "ttlSecondsAfterFinished": 3600,
            "template": template,
        },
    }


def _run(manifest: Mapping[str, Any]) -> str:
    job = kubectl("create", "-f", "-", "-o", "name", stdin=json.dumps(manifest)).strip()
    done = succeeded(job, SECONDS, "the job of the DAG files")
    log = kubectl("logs", job, check=False)
    if not done:
        raise NotInstalled(f"the DAG files stay as they were, the log of {job} ends with:\n{log[-2000:]}")
    return log


def _name(release: Mapping[str, Any]) -> str:
    name: str = release["metadata"]["name"]
    return name.rpartition("-")[0]


def _owners(release: Mapping[str, Any]) -> list[dict[str, Any]]:
    """By which what is made here goes with the release, of which Helm does not know."""
    return [
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "name": release["metadata"]["name"],
            "uid": release["metadata"]["uid"],
        }
    ]


if __name__ == "__main__":
    sys.exit(main())
