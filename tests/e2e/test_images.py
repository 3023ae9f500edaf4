"""The images as they were built: what Dockerfiles ask for is what is in them."""

import json
import os
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(os.environ.get("CLUSTER", "local") != "local", reason="other clusters' images are elsewhere"),
]
REPOSITORY = Path(__file__).resolve().parents[2]
IMAGES = json.loads((REPOSITORY / ".build/images.yaml").read_text())["global"]["images"]
NAMES = sorted(IMAGES["tags"])
WITH_PYTHON_PACKAGES = ("airflow", "feast", "mlflow", "sensor-trainer", "task")
# As the build has it: these work inside containers, too.
STORAGE = {"STORAGE_DRIVER": "overlay", "BUILDAH_ISOLATION": "chroot"}


def buildah(*arguments):
    done = subprocess.run(["buildah", *arguments], capture_output=True, text=True, env={**STORAGE, **os.environ})
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def reference(name):
    return f"{IMAGES['registry']}/{name}:{IMAGES['tags'][name]}"


@contextmanager
def root_of(name):
    """The files of an image."""
    container = buildah("from", "--pull-never", reference(name))
    try:
        yield Path(buildah("mount", container))
    finally:
        buildah("rm", container)


@pytest.mark.parametrize("name", NAMES)
def test_an_image_runs_without_rights_and_says_what_it_is(name):
    config = json.loads(buildah("inspect", "--type", "image", reference(name)))["OCIv1"]["config"]
    assert config["User"] == "10001:10001"
    labels = config["Labels"]
    assert labels["org.opencontainers.image.title"].startswith("Maestro")
    assert labels["org.opencontainers.image.version"] not in ("", "0")
    assert labels["org.opencontainers.image.revision"] != "unknown"


@pytest.mark.parametrize("name", NAMES)
def test_an_image_holds_no_compiler_no_package_cache_and_no_secret_of_its_build(name):
    with root_of(name) as root:
        programs = {
            path.name for folder in ("usr/bin", "usr/local/bin", "opt/venv/bin") for path in root.glob(f"{folder}/*")
        }
        assert not programs & {"gcc", "cc", "g++", "make", "go", "uv", "pip"}
        assert not list(root.glob("var/lib/apt/lists/*")), "lists of packages"
        assert not list(root.glob("run/secrets/*"))


@pytest.mark.parametrize("name", WITH_PYTHON_PACKAGES)
def test_python_packages_are_compiled_so_that_a_pod_starts_at_once(name):
    with root_of(name) as root:
        (packages,) = root.glob("opt/venv/lib/python3.*/site-packages")
        sources = [path for path in packages.rglob("*.py") if "tests" not in path.parts]
        compiled = [path for path in sources if list(path.parent.glob(f"__pycache__/{path.stem}.cpython-*.pyc"))]
        assert len(compiled) > 0.98 * len(sources)
