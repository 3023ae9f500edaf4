"""What is pinned is looked up in a database of advisories; what applies is told unless it is accepted for a reason."""

import json
import os
import subprocess
import sys
import zipfile
from datetime import UTC, date, datetime, timedelta

import pytest

from infrastructure.advisories import (
    DEBIAN,
    Accepted,
    Pin,
    Unusable,
    accepted,
    applies,
    debian_pins,
    findings,
    judged,
    pins,
)
from tests.conftest import ROOT

TODAY = date(2026, 12, 1)


def record(called, name, ecosystem="PyPI", events=({"introduced": "0"},), kind="ECOSYSTEM", **more):
    ranges = [{"type": kind, "events": list(events)}]
    affected = [{"package": {"ecosystem": ecosystem, "name": name}, "ranges": ranges}]
    return {"id": called, "affected": affected, "modified": ago(0), **more}


def ago(days):
    """As OSV writes a time."""
    return (datetime.now(UTC) - timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%S.123456Z")


@pytest.fixture
def database(tmp_path):
    """Writes an export as OSV lays it out."""

    def write(*records, ecosystem="PyPI"):
        (tmp_path / ecosystem).mkdir()
        with zipfile.ZipFile(tmp_path / ecosystem / "all.zip", "w") as files:
            for each in records:
                files.writestr(f"{each['id']}.json", json.dumps(each))
        return tmp_path

    return write


def affects(ecosystem, version, *events, versions=()):
    affected = {"ranges": [{"type": "ECOSYSTEM", "events": list(events)}], "versions": list(versions)}
    return applies(affected, Pin(ecosystem, "package", version, "here"))


@pytest.mark.parametrize(
    ("ecosystem", "version", "expected"),
    [
        ("PyPI", "1.9", False),
        ("PyPI", "1.10rc1", True),  # of 1.10 it is the one before
        ("PyPI", "1.10", False),
        ("PyPI", "2.0", True),
        ("PyPI", "2.0.1", False),
        ("Go", "1.9.0", False),
        ("Go", "1.10.0-rc.1", True),
        ("Go", "1.10.0", False),
        ("Go", "2.0.0", True),
        ("Go", "2.0.1", False),
        (DEBIAN, "1.9", False),
        (DEBIAN, "1.10~rc1-1", True),
        (DEBIAN, "1.10", False),
        (DEBIAN, "2.0", True),
        (DEBIAN, "2.0-1", False),
    ],
)
def test_a_version_is_affected_from_where_it_came_in_to_where_it_was_mended(ecosystem, version, expected):
    first = {"PyPI": "1.10rc0", "Go": "1.10.0-rc.0", DEBIAN: "1.10~rc0"}[ecosystem]
    mended, again = ("1.10.0", "2.0.0") if ecosystem == "Go" else ("1.10", "2.0")
    # Not in their order, as in some advisories.
    events = ({"introduced": again}, {"last_affected": again}, {"introduced": first}, {"fixed": mended})
    assert affects(ecosystem, version, *events) is expected


def test_a_commit_of_go_is_older_than_any_release_and_than_a_later_commit():
    pinned = "0.0.0-20260212201848-7aac2a2c5b7c"
    assert affects("Go", pinned, {"introduced": "0"})
    assert affects("Go", pinned, {"introduced": "0"}, {"fixed": "0.0.0-20260326212440-000000000000"})
    assert not affects("Go", pinned, {"introduced": "0"}, {"fixed": "0.0.0-20260101000000-000000000000"})


def test_a_version_that_is_listed_is_affected_without_a_range():
    assert affects("PyPI", "1!2.0.post1", versions=["1!2.0.post1"])


def test_a_range_of_commits_says_nothing_of_versions():
    affected = {"ranges": [{"type": "GIT", "events": [{"introduced": "0"}]}]}
    assert not applies(affected, Pin("PyPI", "package", "1", "here"))


def test_one_advisory_of_two_names_is_found_once_with_what_mends_it(database):
    mended = ({"introduced": "0"}, {"fixed": "2.0"})
    folder = database(
        record("GHSA-a", "Some_Package", events=mended, aliases=["CVE-1"], summary="Bad."),
        record("PYSEC-1", "some-package", events=mended, aliases=["CVE-1"]),
        record("GHSA-b", "some-package", events=mended, withdrawn="2026-01-01T00:00:00Z"),
        record("GHSA-c", "another"),
    )
    (found,) = findings([Pin("PyPI", "some-package", "1.0", "constraints.txt")], folder)
    assert str(found) == "some-package 1.0 (constraints.txt): CVE-1, GHSA-a, PYSEC-1: mended in 2.0. Bad."


def test_a_database_without_an_ecosystem_is_named_with_the_remedy(database):
    with pytest.raises(Unusable, match=r"Go/all\.zip is missing: put OSV's export of Go there"):
        findings([Pin("Go", "module", "1.0.0", "go.mod")], database())


def test_what_is_accepted_passes_for_its_package_until_its_day(database):
    folder = database(record("GHSA-a", "package", aliases=["CVE-1"]))
    found = findings([Pin("PyPI", "package", "1.0", "constraints.txt")], folder)
    entry = Accepted("CVE-1", "package", "not reached", TODAY)
    assert judged(found, [entry], TODAY) == []
    (late,) = judged(found, [entry], date(2026, 12, 2))
    assert late.endswith("(was accepted until 2026-12-01: not reached)")
    other = Accepted("CVE-1", "another", "not reached", TODAY)
    assert [line.partition(" ")[0] for line in judged(found, [other], TODAY)] == ["package", "CVE-1"]


def test_what_is_accepted_and_applies_no_more_is_to_be_taken_out():
    (line,) = judged([], [Accepted("CVE-1", "package", "not reached", TODAY)], TODAY)
    assert line == "CVE-1 is accepted for package and applies no more: take it out of advisories.toml"


def test_the_source_packages_that_an_image_has_installed_are_looked_up():
    status = """Package: libssl3
Status: install ok installed
Source: openssl (3.0.17-1~deb12u2)
Version: 3.0.17-1~deb12u2+b1

Package: bash
Status: install ok installed
Version: 5.2.15-2+b7

Package: gone
Status: deinstall ok config-files
Version: 1"""
    assert list(debian_pins(status, "image base")) == [
        Pin(DEBIAN, "openssl", "3.0.17-1~deb12u2", "image base"),
        Pin(DEBIAN, "bash", "5.2.15-2+b7", "image base"),
    ]


def test_everything_that_the_repository_pins_is_looked_up():
    found = {(pin.ecosystem, pin.name): pin.version for pin in pins()}
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    assert sum(ecosystem == "PyPI" for ecosystem, _ in found) == sum("==" in line for line in constraints)
    assert found["Go", "github.com/minio/minio"].startswith("0.0.0-2026")
    assert {"stdlib", "k8s.io/kubernetes", "golang.org/x/crypto", "go.k6.io/k6"} <= {name for _, name in found}
    modules = {path.relative_to(ROOT) for path in ROOT.glob("*/**/go.mod")}
    assert {str(path) for path in modules} == {pin.where for pin in pins() if pin.where.endswith("go.mod")}


def test_each_that_is_accepted_is_pinned_and_has_a_reason():
    names = {pin.name for pin in pins()}
    for entry in accepted():
        assert entry.package in names
        assert len(entry.reason) > 20


def run(*options, **environment):
    command = [sys.executable, "-m", "infrastructure.advisories", *options]
    kept = {key: value for key, value in os.environ.items() if key != "OSV_DATABASE"}
    return subprocess.run(command, cwd=ROOT, env={**kept, **environment}, capture_output=True, text=True)


def test_the_program_ends_with_what_is_to_be_seen_to(database):
    minio = [record(each.id, each.package, "Go", kind="SEMVER") for each in accepted()]
    for name, records in {"Go": minio, DEBIAN: [record("DSA-1", "another", DEBIAN)]}.items():
        folder = database(*records, ecosystem=name)
    assert run(OSV_DATABASE=str(folder)).stderr.endswith("PyPI/all.zip is missing: put OSV's export of PyPI there\n")
    database(record("GHSA-o", "another"), ecosystem="PyPI")
    clean = run(OSV_DATABASE=str(folder))
    assert clean.returncode == 0, clean.stdout
    with zipfile.ZipFile(folder / "PyPI/all.zip", "a") as files:
        files.writestr("GHSA-n.json", json.dumps(record("GHSA-n", "numpy", summary="New.")))
    told = run(OSV_DATABASE=str(folder))
    assert told.returncode == 1
    assert "numpy" in told.stdout
    assert "GHSA-n: not mended yet. New." in told.stdout


@pytest.mark.parametrize(("days", "code"), [(6, 0), (8, 1)])
def test_a_database_in_which_nothing_is_newer_than_a_week_is_refused_unless_that_is_allowed(database, days, code):
    minio = [record(each.id, each.package, "Go", kind="SEMVER") for each in accepted()]
    old = [record(f"GHSA-{age}", "another", modified=ago(age)) for age in (days + 1000, days, days + 1)]
    for name, records in {"PyPI": old, "Go": minio, DEBIAN: [record("DSA-1", "another", DEBIAN)]}.items():
        folder = database(*records, ecosystem=name)
    told = run(OSV_DATABASE=str(folder))
    assert told.returncode == code, told.stderr
    said = f"PyPI/all.zip has nothing newer than {ago(days)[:10]}: fetch OSV's export anew, or allow it by --any-age"
    assert (said in told.stderr) is bool(code)
    assert run("--any-age", OSV_DATABASE=str(folder)).returncode == 0


def test_without_a_database_the_program_says_what_to_do():
    assert "OSV_DATABASE is not set: name the folder with OSV's export" in run().stderr
