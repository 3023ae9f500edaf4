"""DAG files on their volume: what readers see while a version is brought, and what one that dies leaves behind."""

import io
import shutil
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from types import FrameType

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlops.airflow.administration import dags
from mlops.airflow.administration.dags import bring, main, put
from mlops.airflow.bundles import versions
from mlops.airflow.bundles.versions import DagVersions, digest
from tests.servers import execute, new_database
from tests.unit.dying import Died

A = {"a.py": "a1", "utils/b.py": "b1", "gone.py": "g1"}
B = {"a.py": "a2", "utils/b.py": "b2", "new.py": "n2"}


def folder(path: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    return path


def read(path: Path) -> dict[str, str]:
    return {str(file.relative_to(path)): file.read_text() for file in path.rglob("*") if file.is_file()}


@pytest.fixture(autouse=True)
def brought_to_disk(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No power is lost here: the paths that would be brought to the disk, and the renames, in their order."""
    done, rename = list[str](), Path.rename
    monkeypatch.setattr(versions, "_to_disk", lambda path: done.append(str(path)))
    monkeypatch.setattr(Path, "rename", lambda path, to: (done.append(f"{path} -> {to}"), rename(path, to))[1])
    return done


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    (tmp_path / "volume").mkdir()
    return tmp_path / "volume"


@pytest.fixture
def there(volume: Path, tmp_path: Path) -> DagVersions:
    """A volume with version A."""
    made = DagVersions(volume)
    bring(made, folder(tmp_path / "a", A))
    return made


def now(there: DagVersions) -> dict[str, str]:
    version = there.current()
    assert version is not None
    return read(there.path(version))


def archive(path: Path, files: dict[str, str]) -> Path:
    with tarfile.open(path, "w:gz") as made:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            made.addfile(entry, io.BytesIO(text.encode()))
    return path


@contextmanager
def dying(step: int) -> Iterator[list[int]]:
    """Dies before the line of this number, of all that is run to copy, name and remove; yields how many there were."""
    ours, ran = {versions.__file__, dags.__file__, shutil.__file__}, [0]

    def at_line(frame: FrameType, event: str, _: object) -> object:
        if frame.f_code.co_filename not in ours:
            return None
        if event == "line":
            ran[0] += 1
            if ran[0] == step:
                raise Died
        return at_line

    before = sys.gettrace()
    sys.settrace(at_line)
    try:
        yield ran
    finally:
        sys.settrace(before)


def test_a_version_is_the_files_of_the_image_and_no_others(there: DagVersions, tmp_path: Path, volume: Path) -> None:
    assert now(there) == A == read(volume / "current")
    (tmp_path / "b/__pycache__").mkdir(parents=True)
    (tmp_path / "b/__pycache__/a.pyc").write_text("compiled")
    bring(there, folder(tmp_path / "b", B))
    assert now(there) == B == read(volume / "current")


def test_who_dies_at_any_step_leaves_the_old_version_or_the_new_one_and_the_next_one_ends_it(tmp_path: Path) -> None:
    a, b = folder(tmp_path / "a", A), folder(tmp_path / "b", B)
    step, seen, done = 1, list[dict[str, str]](), False
    while not done:
        root = tmp_path / f"volume-{step}"
        root.mkdir()
        there = DagVersions(root)
        old = bring(there, a)
        try:
            with dying(step):
                bring(there, b)
            done = True
        except (Died, OSError):  # in place of it what shutil meets where it cleans up, as one who is killed does not
            seen.append(now(there))
            assert read(there.path(old)) == A, "what runs has its files"
            assert read(root / "current") == seen[-1]
            for version in (root / "versions").iterdir():
                assert version.name.startswith(".new-") or digest(version) == version.name, "none is half"
        bring(there, b)
        assert now(there) == B
        assert {path.name for path in (root / "versions").iterdir()} == {old, there.current()}, "nothing is left over"
        step += 1
    assert seen.count(A) > 20
    assert seen[0] == A
    assert seen[-1] == B
    switches = [files for files, before in zip(seen, [None, *seen], strict=False) if files != before]
    assert switches == [A, B]


def test_who_dies_while_it_removes_old_versions_leaves_no_half_of_one(tmp_path: Path) -> None:
    a, b, c = (folder(tmp_path / name, {**A, "n.py": name}) for name in "abc")
    step, done = 1, False
    while not done:
        root = tmp_path / f"volume-{step}"
        root.mkdir()
        there = DagVersions(root)
        for files in (a, b, c):
            bring(there, files)
        try:
            with dying(step):
                there.prune(1, set())
            done = True
        except (Died, OSError):  # in place of it what shutil meets where it cleans up, as one who is killed does not
            for version in (root / "versions").iterdir():
                assert version.name.startswith(".new-") or digest(version) == version.name
        step += 1
    assert step > 5
    assert [path.name for path in (root / "versions").iterdir()] == [there.current()]


def test_files_are_on_the_disk_before_they_are_a_version(there: DagVersions, brought_to_disk: list[str]) -> None:
    at = next(number for number, done in enumerate(brought_to_disk) if " -> " in done)
    new, version = brought_to_disk[at].split(" -> ")
    assert {*brought_to_disk[:at]} == {new, f"{new}/utils", *(f"{new}/{name}" for name in A)}
    assert brought_to_disk[at + 1 :] == [str(Path(version).parent), str(Path(version).parents[1])], (
        "and the names of both"
    )


def test_readers_see_one_version_or_the_other_while_they_change_all_the_time(tmp_path: Path, volume: Path) -> None:
    there = DagVersions(volume)
    sources = [folder(tmp_path / name, {f"{n}.py": name for n in range(20)}) for name in "ab"]
    bring(there, sources[0])
    stop, mixed, looks = Event(), list[set[str]](), [0]

    def look() -> None:
        while not stop.is_set():
            version = there.current()
            assert version is not None
            found = list(read(there.path(version)).values())
            looks[0] += 1
            if len(found) != 20 or len(set(found)) != 1:
                mixed.append(set(found))

    readers = [Thread(target=look) for _ in range(2)]
    for reader in readers:
        reader.start()
    for turn in range(30):
        bring(there, sources[turn % 2])
    stop.set()
    for reader in readers:
        reader.join()
    assert looks[0] > 0
    assert mixed == []


def test_files_that_are_put_lie_over_the_current_ones_and_others_stay(there: DagVersions, tmp_path: Path) -> None:
    before = there.current()
    put(there, archive(tmp_path / "x.tar.gz", {"a.py": "mine", "own/c.py": "c"}), ["gone.py", "never.py"])
    assert now(there) == {"a.py": "mine", "utils/b.py": "b1", "own/c.py": "c"}
    assert before is not None
    assert read(there.path(before)) == A, "who runs by the version before has its files"
    put(there, None, ["own/c.py"])
    assert now(there) == {"a.py": "mine", "utils/b.py": "b1"}


def test_of_many_who_put_at_once_none_loses_the_files_of_another(there: DagVersions, tmp_path: Path) -> None:
    files = [archive(tmp_path / f"{n}.tar.gz", {f"own_{n}.py": str(n)}) for n in range(6)]
    writers = [Thread(target=put, args=(there, file)) for file in files]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert now(there) == A | {f"own_{n}.py": str(n) for n in range(6)}


def test_nothing_outside_of_the_files_is_written_or_removed(there: DagVersions, tmp_path: Path, volume: Path) -> None:
    (volume / "kept").write_text("kept")
    with pytest.raises(ValueError, match="lies outside"):
        put(there, archive(tmp_path / "x.tar.gz", {"../../kept": "taken"}))
    with pytest.raises(ValueError, match="lies outside"):
        put(there, None, ["../../kept"])
    assert (volume / "kept").read_text() == "kept"
    assert now(there) == A


def test_the_same_files_are_the_same_version_and_are_to_be_parsed_again(there: DagVersions, tmp_path: Path) -> None:
    first = there.current()
    bring(there, folder(tmp_path / "b", B))
    assert first is not None
    of_old = (there.path(first) / "a.py").stat().st_mtime_ns
    assert bring(there, tmp_path / "a") == first == there.current()
    assert (there.path(first) / "a.py").stat().st_mtime_ns > of_old


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    left=st.dictionaries(st.sampled_from(["a", "b", "ab", "c/a", "c/b"]), st.text(max_size=3)),
    right=st.dictionaries(st.sampled_from(["a", "b", "ab", "c/a", "c/b"]), st.text(max_size=3)),
)
def test_versions_are_equal_where_their_files_are(
    left: dict[str, str], right: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    one, other = (folder(tmp_path_factory.mktemp("files"), files) for files in (left, right))
    assert (digest(one) == digest(other)) == (read(one) == read(other))


def test_versions_of_runs_that_go_on_stay_and_of_the_others_the_newest(
    postgresql: str, volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    database = new_database(postgresql)
    execute(database, "create table dag_run (state text, bundle_version text)")
    there = DagVersions(volume)
    made = [bring(there, folder(tmp_path / str(n), {"a.py": str(n)})) for n in range(6)]
    with psycopg.connect(database) as connection:
        runs = [("running", made[0]), ("queued", made[1]), ("success", made[2]), ("failed", made[3]), ("running", None)]
        connection.cursor().executemany("insert into dag_run values (%s, %s)", runs)
    monkeypatch.setenv("DATABASE_URL", database)
    image = folder(tmp_path / "image", B)
    assert main(["image", "--volume", str(volume), "--keep", "2", "--folder", str(image)]) == 0
    current = there.current()
    assert {path.name for path in (volume / "versions").iterdir()} == {current, made[5], made[0], made[1]}
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"DAG files are version {current} now"
    assert {line.split()[2].strip(":") for line in said[1:]} == {made[2], made[3], made[4]}
    assert main(["add", "--volume", str(volume), "--keep", "2", "--remove", "new.py"]) == 0
    assert now(there) == {"a.py": "a2", "utils/b.py": "b2"}
