"""The image build: what a tag depends on, and what engines are asked, by stand-ins that record it."""

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
from base64 import b64encode
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

IMAGES = Path(__file__).parents[2] / "images"
# The build is a program, not a package: its modules find each other in its own folder.
sys.path.insert(0, str(IMAGES))
import archive  # noqa: E402
import build  # noqa: E402
import debian  # noqa: E402
import engines  # noqa: E402
import recipe  # noqa: E402
import requirements  # noqa: E402

sys.path.remove(str(IMAGES))

BASE = 'ARG BASE_IMAGE=debian:slim\nFROM ${BASE_IMAGE}\nARG REVISION=unknown\nLABEL revision="${REVISION}"\n'
CHILD = "ARG BASE_IMAGE=base\nFROM ${BASE_IMAGE}\n"
DOCKERFILES = {
    "base": BASE,
    "builder": CHILD,
    "store": CHILD + "COPY --chmod=755 images/store/start /usr/bin/\nCOPY --from=other nowhere /\n",
    # That of `task`.
    "python": "ARG BASE_IMAGE\nARG BUILDER_IMAGE\nFROM ${BUILDER_IMAGE} AS builder\nFROM ${BASE_IMAGE}\n"
    'COPY pyproject.toml constraints.txt /opt/\nRUN true \\\n    && /opt/tools/bin/install-extra "${EXTRA}"\n'
    'COPY ${PROJECT} /opt/\nRUN true \\\n    && install-project "${PROJECT}"\nCMD ${COMMAND}\n',
    "data": "ARG TASK_IMAGE\nFROM ${TASK_IMAGE}\n",
}
OF_PYTHON = """[task]\nEXTRA = "task"\nPROJECT = "mlops"\nCOMMAND = '["python", "-m", "mlops"]'\n"""
IMAGES_MADE = {"base", "builder", "store", "task", "data"}
PROJECT = """\
[build-system]
requires = ["setuptools>=77"]
[project]
name = "maestro"
version = "1.2.3"
[project.optional-dependencies]
task = ["pandas[io]<3"]
test = ["pytest"]
[project.entry-points."airflow.plugins"]
maestro = "mlops:plugin"
[tool.ruff]
line-length = 120
"""
CONSTRAINTS = """\
numpy==2.0.0
    # via
    #   pandas
    #   unrelated
pandas==2.3.0
    # via maestro (pyproject.toml)
pytest==9.0.0
    # via maestro (pyproject.toml)
setuptools==80.0.0
    # via pytest
"""


@pytest.fixture
def repository(tmp_path):
    """A small repository with the real build program and images of its own."""
    root = tmp_path / "repository"
    for name, dockerfile in DOCKERFILES.items():
        (root / "images" / name).mkdir(parents=True)
        (root / "images" / name / "Dockerfile").write_text(dockerfile)
    (root / "images/python/images.toml").write_text(OF_PYTHON)
    for module in IMAGES.glob("*.py"):
        shutil.copy(module, root / "images")
    (root / "images/store/start").write_text("#!/bin/sh\n")
    (root / "mlops/features").mkdir(parents=True)
    (root / "mlops/features/split.py").write_text("SPLIT = 1\n")
    (root / "pyproject.toml").write_text(PROJECT)
    (root / "constraints.txt").write_text(CONSTRAINTS)
    return root


def tags(repository):
    folder = repository / "contexts"
    shutil.rmtree(folder, ignore_errors=True)
    return recipe.write_contexts(recipe.read_all(repository).values(), folder, repository)


def edit(path, old, new):
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


NO_CHANGE = {
    "modification times": lambda root: [os.utime(path, (1, 1)) for path in (root / "mlops").rglob("*")],
    "bytecode": lambda root: ((root / "mlops/__pycache__").mkdir(), (root / "mlops/__pycache__/a.pyc").touch()),
    "an editor's and a reader's files": lambda root: (
        (root / "mlops/.a.swp").touch(),
        (root / "mlops/README.md").touch(),
    ),
    "a file that is not copied": lambda root: (root / "images/store/notes").touch(),
    "permissions of a group": lambda root: (root / "mlops/features/split.py").chmod(0o600),
    "settings of other tools": lambda root: edit(root / "pyproject.toml", "120", "100"),
    "another extra": lambda root: edit(root / "pyproject.toml", '"pytest"', '"pytest>=9"'),
    "a package that only another extra uses": lambda root: edit(
        root / "constraints.txt", "pytest==9.0.0", "pytest==9.0.1"
    ),
}


@pytest.mark.parametrize("change", NO_CHANGE)
def test_no_tag_changes_by(repository, change):
    before = tags(repository)
    NO_CHANGE[change](repository)
    assert tags(repository) == before


CHANGES = {
    "a Dockerfile": (lambda root: edit(root / "images/store/Dockerfile", "755", "700"), {"store"}),
    "a copied file": (lambda root: (root / "images/store/start").write_text("#!/bin/bash\n"), {"store"}),
    "a copied file's executable bit": (lambda root: (root / "images/store/start").chmod(0o755), {"store"}),
    "a file deep in a copied folder": (lambda root: edit(root / "mlops/features/split.py", "1", "2"), {"task", "data"}),
    "a new file in a copied folder": (lambda root: (root / "mlops/new.py").touch(), {"task", "data"}),
    "a removed file": (lambda root: (root / "mlops/features/split.py").unlink(), {"task", "data"}),
    "a renamed file": (
        lambda root: (root / "mlops/features/split.py").rename(root / "mlops/features/cut.py"),
        {"task", "data"},
    ),
    "the extra's packages": (lambda root: edit(root / "pyproject.toml", "pandas[io]<3", "pandas<3"), {"task", "data"}),
    "an entry point": (lambda root: edit(root / "pyproject.toml", "mlops:plugin", "mlops:other"), {"task", "data"}),
    "a pin": (lambda root: edit(root / "constraints.txt", "pandas==2.3.0", "pandas==2.3.1"), {"task", "data"}),
    "a pin behind a pin": (
        lambda root: edit(root / "constraints.txt", "numpy==2.0.0", "numpy==2.0.1"),
        {"task", "data"},
    ),
    "a pin of the package's build": (
        lambda root: edit(root / "constraints.txt", "==80.0.0", "==80.0.1"),
        {"task", "data"},
    ),
    "a parent": (lambda root: edit(root / "images/base/Dockerfile", "revision=", "commit="), IMAGES_MADE),
    "an argument": (lambda root: edit(root / "images/python/images.toml", '"-m", ', ""), {"task", "data"}),
    "the builder": (
        lambda root: (root / "images/builder/Dockerfile").write_text(CHILD + "RUN true\n"),
        {"builder", "task", "data"},
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_tags_of_an_image_and_of_all_that_stand_on_it_change_by(repository, change):
    apply, expected = CHANGES[change]
    before = tags(repository)
    apply(repository)
    after = tags(repository)
    assert {name for name in after if after[name] != before[name]} == expected


def test_a_context_holds_what_the_dockerfile_copies_and_the_packages_it_uses_and_nothing_else(repository):
    tags(repository)
    context = repository / "contexts/task"
    files = {str(path.relative_to(context)) for path in context.rglob("*") if path.is_file()}
    assert files == {"Dockerfile", "constraints.txt", "pyproject.toml", "mlops/features/split.py"}
    assert (context / "constraints.txt").read_text() == "numpy==2.0.0\npandas==2.3.0\nsetuptools==80.0.0\n"


def test_a_context_holds_the_wheels_of_the_versions_that_the_image_uses_and_they_count(repository, tmp_path):
    wheelhouse = tmp_path / "wheelhouse"
    wheelhouse.mkdir()
    wheels = ("pandas-2.3.0+cpu-cp311-cp311-any.whl", "pandas-2.3.1-cp311-cp311-any.whl", "pytest-9.0.0-py3-any.whl")
    for wheel in wheels:
        (wheelhouse / wheel).write_text(wheel)
    without = tags(repository)
    recipes, contexts = recipe.read_all(repository), tmp_path / "contexts"
    found = recipe.write_contexts(recipes.values(), contexts, repository, wheelhouse)
    assert [path.name for path in (contexts / "task/wheels").iterdir()] == [wheels[0]]
    assert {name for name in found if found[name] != without[name]} == {"task", "data"}


def test_of_one_dockerfile_each_image_has_its_arguments_and_no_instruction_that_names_an_empty_one(repository):
    more = '[bare]\nEXTRA = "test"\nPROJECT = ""\nCOMMAND = "[]"\n'
    (repository / "images/python/images.toml").write_text(OF_PYTHON + more)
    recipes = recipe.read_all(repository)
    assert recipes.keys() == IMAGES_MADE | {"bare"}
    shared, _, rest = DOCKERFILES["python"].partition("COPY ${PROJECT}")
    assert recipes["bare"].dockerfile == shared.replace("${EXTRA}", "test") + "CMD []\n"
    assert recipes["bare"].sources == ("constraints.txt", "pyproject.toml")
    assert recipes["bare"].extra == "test"
    filled = rest.replace("${PROJECT}", "mlops").replace("${COMMAND}", '["python", "-m", "mlops"]')
    assert recipes["task"].dockerfile == shared.replace("${EXTRA}", "task") + "COPY mlops" + filled
    assert recipes["task"].sources == ("constraints.txt", "mlops", "pyproject.toml")
    before = tags(repository)
    edit(repository / "images/python/images.toml", more, more.replace("[]", "[1]"))
    after = tags(repository)
    assert {name for name in after if after[name] != before[name]} == {"bare"}


def test_arguments_are_written_into_the_dockerfile(tmp_path):
    (tmp_path / "Dockerfile").write_text(BASE + "FROM ${BASE_IMAGE} AS again\nARG BASE_IMAGE\n")
    recipe.fill(tmp_path, {"BASE_IMAGE": "localhost/debian", "REVISION": "abc"})
    assert (tmp_path / "Dockerfile").read_text() == (
        "ARG BASE_IMAGE=localhost/debian\nFROM localhost/debian\nARG REVISION=abc\n"
        'LABEL revision="abc"\nFROM localhost/debian AS again\nARG BASE_IMAGE=localhost/debian\n'
    )


@given(st.dictionaries(st.integers(0, 9), st.sets(st.integers(0, 9))), st.sets(st.integers(0, 9)))
def test_used_constraints_are_those_that_can_be_reached_from_what_is_asked_for(brings, roots):
    pins = "".join(
        f"p{name}==1\n    # via\n    #   maestro (pyproject.toml)\n"
        + "".join(f"    #   P_{parent}\n".replace("P_", "p") for parent, children in brings.items() if name in children)
        for name in range(10)
    )
    used = {int(line[1]) for line in requirements.used_constraints(pins, [f"p{root}" for root in roots]).splitlines()}
    reachable = set(roots)
    for _ in range(10):
        reachable |= {child for parent in reachable for child in brings.get(parent, ())}
    assert used == reachable


def test_constraints_that_do_not_say_what_brings_a_package_in_are_refused_with_the_remedy():
    with pytest.raises(requirements.RequirementsError, match=r"numpy.*make constraints"):
        requirements.used_constraints("numpy==2.0.0\npandas==2.3.0\n    # via numpy\n", ["pandas"])


def test_a_package_without_a_pin_is_named_with_the_remedy():
    with pytest.raises(requirements.RequirementsError, match=r"does not pin torch.*make constraints"):
        requirements.used_constraints(CONSTRAINTS, ["pandas", "torch"])


class Recorder(engines.Engine):
    """An engine in memory: what it holds, what the cluster holds, and the order in which it was asked."""

    def __init__(self):
        self.images, self.cluster, self.begun, self.ended, self.deliveries = set(), set(), [], [], []

    def has(self, reference):
        return reference in self.images

    def build(self, reference, context, log):
        self.begun.append(reference)
        self.step(reference)
        self.images.add(reference)
        self.ended.append(reference)

    def step(self, reference):
        """What a build does."""

    def delivered(self, reference):
        return reference in self.cluster

    def deliver(self, references, log):
        self.deliveries.append(list(references))
        self.cluster.update(references)
        return ""


@pytest.fixture
def make(repository, tmp_path):
    recipes = recipe.read_all(repository)

    def run(engine, *names):
        needed = build.with_parents(names or recipes, recipes)
        build.Build(
            engine,
            {name: recipes[name] for name in needed},
            {name: name for name in needed},
            tmp_path,
            tmp_path / "log",
        ).run(names or needed)

    return run


def test_parents_are_built_first_and_only_what_pods_run_is_delivered(make):
    engine = Recorder()
    make(engine)
    for parent, child in (("base", "builder"), ("base", "store"), ("builder", "task"), ("task", "data")):
        assert engine.ended.index(parent) < engine.begun.index(child)
    assert engine.cluster == {"store", "task", "data"}


def test_two_images_are_built_at_a_time_and_beside_them_one_delivery(make):
    class Meeting(Recorder):
        together = threading.Barrier(3, timeout=240)

        def step(self, reference):
            if reference in ("builder", "store"):
                self.together.wait()

        def deliver(self, references, log):
            if "task" in references:
                self.together.wait()
            return super().deliver(references, log)

    engine = Meeting()
    engine.images = {"task"}
    make(engine, "task", "builder", "store")
    assert engine.cluster == {"task", "store"}


def test_all_that_is_built_goes_in_one_delivery(make):
    engine = Recorder()
    make(engine)
    engine.cluster.clear()
    make(engine)
    assert sorted(engine.deliveries[-1]) == ["data", "store", "task"]


def test_of_two_deliveries_the_second_waits(tmp_path):
    run = build.Build(engines.Engine(), {}, {}, tmp_path, tmp_path)
    assert list(run.startable([], ["task"], [build.DELIVERY])) == []
    assert [name for name, _ in run.startable([], ["task"], [])] == [build.DELIVERY]


def test_the_image_whose_chain_takes_longest_is_built_first(make, monkeypatch):
    monkeypatch.setattr(build, "WORKERS", 1)
    # `data` waits for `task`, so `task` goes before `store`, which takes longer than it alone.
    monkeypatch.setattr(build, "USUAL_SECONDS", {"store": 10, "task": 6, "data": 5, "builder": 1, "base": 1})
    engine = Recorder()
    make(engine)
    assert engine.begun == ["base", "builder", "task", "store", "data"]
    monkeypatch.setattr(build, "USUAL_SECONDS", {"store": 1000})
    engine = Recorder()
    make(engine)
    assert engine.begun == ["base", "store", "builder", "task", "data"]


def test_an_image_is_built_with_what_it_stands_on_and_nothing_else(make):
    engine = Recorder()
    make(engine, "store")
    assert engine.begun == ["base", "store"]


def test_nothing_is_built_for_what_the_cluster_has(make):
    engine = Recorder()
    engine.cluster = {"store", "task", "data"}
    make(engine, "store", "task", "data")
    assert engine.begun == []


def test_what_is_built_and_not_delivered_is_delivered_without_a_build(make):
    engine = Recorder()
    engine.images = {"task"}
    make(engine, "task")
    assert (engine.begun, engine.cluster) == ([], {"task"})


def test_an_image_whose_parent_failed_is_not_built_and_one_beside_it_is_kept(make):
    class Failing(Recorder):
        def step(self, reference):
            if reference == "builder":
                raise engines.BuildError("no space left")

    engine = Failing()
    with pytest.raises(engines.BuildError, match="no space left"):
        make(engine)
    assert "task" not in engine.begun
    assert engine.ended[0] == "base"


def keep(storage, tar):
    """Keep a layer in a folder as containers/storage does: the files of its tar, and the tar without their contents."""
    number = len(list((storage / "overlay").glob("*")))
    files, kept = storage / f"overlay/{number}/diff", storage / "overlay-layers"
    files.mkdir(parents=True)
    kept.mkdir(exist_ok=True)
    entries, position = [], 0
    with tarfile.open(fileobj=io.BytesIO(tar)) as members:
        for member in members:
            name = os.fsencode(member.name)
            path = Path(os.fsdecode(bytes(files) + b"/" + name))
            path.parent.mkdir(parents=True, exist_ok=True)
            named = {"name": member.name} if name.isascii() else {"name_raw": b64encode(name).decode()}
            if not member.isreg():
                path.symlink_to("/nowhere")
                entries.append({"type": 1, **named, "payload": None})
                continue
            content = tar[member.offset_data :][: member.size]
            path.write_bytes(content)
            between = tar[position : member.offset_data]
            entries.append({"type": 2, "payload": b64encode(between).decode()})
            entries.append({"type": 1, **named, "size": member.size, "payload": "Y2hlY2tzdW0="})
            position = member.offset_data + member.size
    entries.append({"type": 2, "payload": b64encode(tar[position:]).decode()})
    with gzip.open(kept / f"{number}.tar-split.gz", "wt") as split:
        split.writelines(f"{json.dumps(entry)}\n" for entry in entries)
    listing = kept / "layers.json"
    layers = json.loads(listing.read_text()) if listing.exists() else []
    digest = f"sha256:{hashlib.sha256(tar).hexdigest()}"
    layers.append({"id": str(number), "diff-digest": digest, "diff-size": len(tar)})
    listing.write_text(json.dumps(layers))
    return digest


def tar_of(members, form=tarfile.GNU_FORMAT):
    """A tar with files that have contents, and links (None)."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=form) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content or b"")
            if content is None:
                member.type, member.linkname = tarfile.SYMTYPE, "/nowhere"
            tar.addfile(member, io.BytesIO(content or b""))
    return output.getvalue()


# Any bytes but the two that no name has; so long that a tar needs a second header for it.
NAMES = st.binary(max_size=120).map(lambda name: os.fsdecode(b"name" + name.replace(b"/", b"").replace(b"\0", b"")))


@settings(max_examples=15)
@given(
    st.lists(st.tuples(NAMES, st.none() | st.binary(max_size=700)), max_size=4),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_a_layer_is_written_as_the_tar_it_was_made_from(members, form):
    tar = tar_of({f"folder{number}/{name}": content for number, (name, content) in enumerate(members)}, form)
    with tempfile.TemporaryDirectory() as folder:
        digest = keep(Path(folder), tar)
        output = io.BytesIO()
        archive.layers(Path(folder))[digest].write(output)
    assert output.getvalue() == tar


def image(reference, *digests):
    manifest = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "layers": [{"digest": d} for d in digests]}
    return archive.Image(reference, json.dumps(manifest).encode(), f"configuration of {reference}".encode())


def test_an_archive_names_images_and_holds_each_layer_that_is_lacking_once(tmp_path):
    below, shared, top = (keep(tmp_path, tar_of({name: name.encode() * 700})) for name in ("below", "shared", "top"))
    images = [image("task:1", below, shared), image("data:1", below, shared, top)]
    carried = archive.lacking(images, archive.layers(tmp_path), {below, "sha256:other"})
    output = io.BytesIO()
    archive.write(output, images, carried)
    output.seek(0)
    with tarfile.open(fileobj=output) as tar:
        contents = {member.name: tar.extractfile(member).read() for member in tar}
        assert len(contents) == len(tar.getmembers())
    blobs = {path.removeprefix("blobs/").replace("/", ":"): text for path, text in contents.items() if "blobs" in path}
    assert all(digest == f"sha256:{hashlib.sha256(text).hexdigest()}" for digest, text in blobs.items())
    assert {shared, top} < blobs.keys()
    assert below not in blobs
    named = {
        entry["annotations"]["io.containerd.image.name"]: entry
        for entry in json.loads(contents["index.json"])["manifests"]
    }
    for each in images:
        entry = named.pop(each.reference)
        assert blobs[entry["digest"]] == each.manifest
        assert entry["size"] == len(each.manifest)
        assert each.configuration in blobs.values()
    assert not named
    assert json.loads(contents["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}


def test_a_layer_that_lost_bytes_is_an_error_that_names_it(tmp_path):
    digest = keep(tmp_path, tar_of({"file": b"content"}))
    (tmp_path / "overlay/0/diff/file").write_bytes(b"cont")
    with pytest.raises(archive.ArchiveError, match=f"{digest}.*buildah rmi"):
        archive.layers(tmp_path)[digest].write(io.BytesIO())


def test_a_layer_that_a_build_is_writing_is_not_taken(tmp_path):
    digest = keep(tmp_path, tar_of({"file": b"content"}))
    listing = tmp_path / "overlay-layers/layers.json"
    partial = {"diff-digest": digest, "diff-size": 1, "flags": {"incomplete": True}}
    listing.write_text(json.dumps([*json.loads(listing.read_text()), {"id": "1", **partial}, {"id": "2"}]))
    assert archive.layers(tmp_path)[digest].files == tmp_path / "overlay/0/diff"


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("buildah"), reason="buildah builds as root")
def test_layers_that_buildah_has_built_are_written_with_the_digests_that_it_names(tmp_path, monkeypatch):
    context = tmp_path / "context"
    (context / "folder").mkdir(parents=True)
    (context / "folder/file").write_bytes(os.urandom(2_000_000))
    (context / "folder/hard").hardlink_to(context / "folder/file")
    (context / "folder/link").symlink_to("/etc/passwd")
    (context / "folder/empty").touch(0o4755)
    Path(os.fsdecode(bytes(context) + b"/folder/\xff")).write_text("a name that is no UTF-8")
    (context / "Dockerfile").write_text(
        "FROM scratch\nENV A=B\nCOPY folder /folder\nCOPY folder/file /other\nLABEL c=d\n"
    )
    (tmp_path / "storage.conf").write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{tmp_path}/root"\nrunroot = "{tmp_path}/run"\n'
    )
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(tmp_path / "storage.conf"))
    engine, log = engines.Buildah(), engines.Log(tmp_path / "log")
    engine.build("localhost/trial:1", context, log)
    built = engine.image("localhost/trial:1")
    known = archive.layers(engine.storage)
    assert len(built.digests) == 2
    for digest in built.digests:
        output = io.BytesIO()
        known[digest].write(output)
        assert f"sha256:{hashlib.sha256(output.getvalue()).hexdigest()}" == digest


# What stands for docker, minikube, buildah and the commands of the cluster: it records what it was asked, and remembers
# images in the file `state`, so that asking for one answers as the real program would.
STAND_IN = """\
#!/usr/bin/python3
import fcntl, json, pathlib, shutil, sys
program, words = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
here = pathlib.Path(sys.argv[0]).parent.parent
# Two builds run at a time, and each is to see what the other has done.
lock = (here / "lock").open("w")
fcntl.flock(lock, fcntl.LOCK_EX)
state = here / "state"
with (here / "record").open("a") as record:
    record.write(json.dumps([program, *words]) + "\\n")
known = state.read_text().split() if state.exists() else []
text = " ".join(words)
if "build" in words:
    context = pathlib.Path(words[-1])
    tag = words[words.index("--tag") + 1]
    name = tag.split("/")[-1].split(":")[0]
    shutil.copy(context / "Dockerfile", here / f"Dockerfile.{name}")
    for word in words:
        if word.startswith("id="):
            label, source = word.split(",src=")
            shutil.copy(source, here / label)
    if (here / "fail").exists() and (here / "fail").read_text() == name:
        print("step 1 of 2", "step 2 of 2: no space left", sep="\\n")
        sys.exit(3)
    if not (here / "forget").exists():
        state.write_text("\\n".join([*known, tag]))
elif words[:1] == ["push"]:
    state.write_text("\\n".join([*known, "registry:" + words[-1]]))
elif "ls" in words:
    print("\\n".join(known))
elif words[:1] == ["info"]:
    print("overlay", here / "storage")
elif words[:1] == ["load"]:
    import tarfile
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as tar:
        paths = [member.name for member in tar]
    blobs = ["blobs:" + path.removeprefix("blobs/").replace("/", ":") for path in paths if path.startswith("blobs/")]
    state.write_text("\\n".join([*known, *blobs, *("images:" + word for word in words[1:])]))
    with (here / "moved").open("a") as moved:
        moved.writelines(blob + "\\n" for blob in blobs)
elif program == "cluster":
    print(*(line.removeprefix(words[0] + ":") for line in known if line.startswith(words[0] + ":")))
elif ("registry:" if words[0] == "manifest" else "") + words[-1] not in known:
    sys.exit(1)
elif program == "buildah":
    name = words[-1].split("/")[-1].split(":")[0]
    layers = json.loads((here / "storage/of").read_text()).get(name, [])
    kind = "application/vnd.oci.image.manifest.v1+json"
    manifest = {"mediaType": kind, "layers": [{"digest": digest} for digest in layers], "of": words[-1]}
    print(json.dumps({"Manifest": json.dumps(manifest), "Config": words[-1]}))
"""


class Program:
    """build.py on the small repository, with stand-ins for all it calls."""

    def __init__(self, repository, folder):
        self.repository, self.folder = repository, folder
        (folder / "bin").mkdir()
        for name in ("docker", "minikube", "buildah", "debootstrap", "cluster"):
            path = folder / "bin" / name
            path.write_text(STAND_IN)
            path.chmod(0o755)
        # Nothing else: what this machine has installed is neither asked nor missed.
        self.environment = {"PATH": f"{folder}/bin"}

    def __call__(self, *arguments):
        command = [sys.executable, str(self.repository / "images/build.py"), *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=240)

    def asked(self, program, verb):
        """The recorded calls of a program that hold a word."""
        path = self.folder / "record"
        lines = path.read_text().splitlines() if path.exists() else []
        calls = [json.loads(line) for line in lines]
        return [call[1:] for call in calls if call[0] == program and verb in call]

    def forget(self):
        (self.folder / "record").unlink()

    @property
    def values(self):
        return json.loads((self.repository / ".build/images.yaml").read_text())["global"]["images"]


@pytest.fixture
def program(repository, tmp_path):
    return Program(repository, tmp_path)


def test_docker_builds_all_and_pushes_what_pods_run(program, repository):
    result = program("--engine", "docker", "--registry", "registry.test/team", "--push")
    assert result.returncode == 0, result.stderr
    assert len(program.asked("docker", "build")) == len(IMAGES_MADE)
    names = {call[-1].split("/")[-1].split(":")[0] for call in program.asked("docker", "push")}
    assert names == {"store", "task", "data"}
    expected = tags(repository)
    assert program.values == {
        "registry": "registry.test/team",
        "tags": {name: expected[name] for name in ("store", "task", "data")},
    }


def test_docker_is_asked_for_nothing_that_the_registry_has(program):
    program("--engine", "docker", "--push", "store", "task", "data")
    program.forget()
    assert program("--engine", "docker", "--push", "store", "task", "data").returncode == 0
    assert program.asked("docker", "build") + program.asked("docker", "push") == []


def test_dockerfiles_name_their_parents_by_tag_and_need_no_arguments(program, repository):
    program("--engine", "docker", "--registry", "r")
    expected = tags(repository)
    assert f"FROM r/task:{expected['task']}\n" in (program.folder / "Dockerfile.data").read_text()
    assert "ARG BASE_IMAGE=debian:slim\n" in (program.folder / "Dockerfile.base").read_text()
    assert not program.asked("docker", "--build-arg")


def test_addresses_and_certificates_of_the_host_reach_a_build_as_secrets_and_no_other_way(program):
    bundle = program.folder / "bundle.crt"
    bundle.write_text("certificate")
    program.environment |= {"GOPROXY": "https://user:p'w@go.test", "SSL_CERT_FILE": str(bundle), "AWS_SECRET": "other"}
    assert program("--engine", "docker", "base").returncode == 0
    handed = program.folder / "id=build-environment"
    echo = subprocess.run(["/bin/sh", "-c", f'. "{handed}"; printf %s "$GOPROXY"'], capture_output=True, text=True)
    assert echo.stdout == "https://user:p'w@go.test"
    assert "AWS_SECRET" not in handed.read_text()
    assert (program.folder / "id=ca-bundle").read_text() == "certificate"
    assert "go.test" not in (program.folder / "record").read_text()
    assert "go.test" not in (program.folder / "Dockerfile.base").read_text()


def test_minikube_builds_in_its_profile_with_no_option_that_depends_on_its_container_runtime(program, repository):
    program.environment["MINIKUBE_PROFILE"] = "lab"
    result = program("--engine", "minikube", "store")
    assert result.returncode == 0, result.stderr
    expected = tags(repository)
    assert [call[:-1] for call in program.asked("minikube", "build")] == [
        ["--profile", "lab", "image", "build", "--tag", f"localhost/maestro/{name}:{expected[name]}"]
        for name in ("base", "store")
    ]
    program.forget()
    program("--engine", "minikube", "store")
    assert program.asked("minikube", "build") == []


def test_a_minikube_build_that_failed_with_status_0_is_noticed(program):
    (program.folder / "forget").touch()
    result = program("--engine", "minikube", "store")
    assert result.returncode == 1
    assert "minikube has no localhost/maestro/base" in result.stderr


LOCAL = ("--node", "cluster")


@pytest.fixture
def with_debian(program):
    """Whose buildah has a Debian, and layers of images: `task` and `data` share all but the last one."""
    (program.folder / "state").write_text(debian.IMAGE)
    storage = program.folder / "storage"
    below, mlops, data = (keep(storage, tar_of({name: name.encode()})) for name in ("below", "mlops", "data"))
    program.layers = {"store": [below], "task": [below, mlops], "data": [below, mlops, data]}
    (storage / "of").write_text(json.dumps(program.layers))
    return program


def test_buildah_brings_each_layer_to_the_node_once(with_debian):
    result = with_debian("store", "task", *LOCAL)
    assert result.returncode == 0, result.stderr
    assert f"FROM {debian.IMAGE}\n" in (with_debian.folder / "Dockerfile.base").read_text()
    assert with_debian("data", *LOCAL).returncode == 0
    moved = (with_debian.folder / "moved").read_text().split()
    assert [moved.count(f"blobs:{digest}") for digest in with_debian.layers["data"]] == [1, 1, 1]
    with_debian.forget()
    assert with_debian("store", "task", "data", *LOCAL).returncode == 0
    assert with_debian.asked("buildah", "build") + with_debian.asked("cluster", "load") == []


def test_buildah_builds_without_a_node_and_brings_all_of_it_there_later(with_debian):
    assert with_debian("task").returncode == 0
    assert not with_debian.asked("cluster", "load")
    with_debian.forget()
    assert with_debian("task", *LOCAL).returncode == 0
    assert not with_debian.asked("buildah", "build")
    assert len(with_debian.asked("cluster", "load")) == 1


def test_a_node_that_does_not_run_is_said_by_its_own_words_before_anything_is_built(with_debian):
    (with_debian.folder / "bin/cluster").write_text("#!/bin/sh\necho the node is not running >&2\nexit 1\n")
    result = with_debian("task", *LOCAL)
    assert (result.returncode, result.stderr) == (1, "error: cluster images ended with 1: the node is not running\n")
    assert not with_debian.asked("buildah", "build")


def test_a_failed_build_ends_with_the_log_and_its_last_lines(with_debian):
    (with_debian.folder / "fail").write_text("builder")
    result = with_debian()
    assert result.returncode == 1
    assert str(with_debian.repository / ".build/images/builder.log") in result.stderr
    assert "step 2 of 2: no space left" in result.stderr
    assert "builder    failed after" in result.stdout
    assert not (with_debian.repository / ".build/images.yaml").exists()


def test_one_image_built_anew_leaves_the_other_tags_in_the_values_file(with_debian, repository):
    with_debian()
    before = with_debian.values["tags"]
    edit(repository / "mlops/features/split.py", "1", "2")
    with_debian("task")
    after = with_debian.values["tags"]
    assert after["task"] != before["task"]
    assert {**after, "task": before["task"]} == before


def test_tags_are_listed_without_building(program, repository):
    result = program("--list-tags", "data")
    assert result.stdout.split() == [
        word for name, tag in tags(repository).items() if name != "store" for word in (name, tag)
    ]
    assert not (program.folder / "record").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nothing",), "there is no image 'nothing': there are base"),
        (("--engine", "docker"), "docker is not installed"),
    ],
)
def test_a_mistake_is_said_in_one_line(program, arguments, said):
    (program.folder / "bin/docker").unlink()
    result = program(*arguments)
    assert result.returncode == 1
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_debian_knows_where_its_security_updates_are_and_nothing_of_the_machine_it_was_made_on(tmp_path):
    folders = ("var/cache/apt", "var/lib/apt/lists", "var/log", "usr/share/info", "usr/share/locale", "usr/share/man")
    for folder in (*folders, "usr/share/doc/bash", "etc/apt/apt.conf.d", "etc/dpkg/dpkg.cfg.d"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("var/log/bootstrap.log", "usr/share/doc/bash/copyright", "usr/share/doc/bash/changelog.gz"):
        (tmp_path / file).touch()
    (tmp_path / "etc/apt/sources.list").write_text("deb http://mirror.test/debian bookworm main\n")
    (tmp_path / "etc/resolv.conf").write_text("nameserver 10.0.0.1\n")
    debian.slim(tmp_path)
    assert (tmp_path / "etc/apt/sources.list").read_text() == (
        "deb http://mirror.test/debian bookworm main\n"
        "deb http://mirror.test/debian bookworm-updates main\n"
        "deb http://mirror.test/debian-security bookworm-security main\n"
    )
    assert (tmp_path / "etc/resolv.conf").read_text() == ""
    assert [path.name for path in (tmp_path / "usr/share/doc/bash").iterdir()] == ["copyright"]
    assert not any((tmp_path / "var/log").iterdir())


def test_every_image_of_this_repository_has_a_tag_and_finds_what_it_copies(tmp_path):
    recipes = recipe.read_all()
    assert {
        "base",
        "airflow",
        "mlflow",
        "minio",
        "postgresql",
        "redis",
        "task",
        "feast",
        "datasets",
        "monitoring",
    } <= recipes.keys()
    written = recipe.write_contexts(recipes.values(), tmp_path)
    assert len(set(written.values())) == len(recipes)
