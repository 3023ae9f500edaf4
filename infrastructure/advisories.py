"""Looks what is pinned up in an OSV database: `python -m infrastructure.advisories`, and `make advisories`.

OSV_DATABASE names a folder as OSV exports it (https://google.github.io/osv.dev/data/): PyPI/all.zip, Go/all.zip and
Debian:12/all.zip. Nothing is fetched, so that the check does the same wherever it runs. It ends with 1 where an
advisory applies that infrastructure/advisories.toml does not accept, where it accepts one that does not apply, or where
the database is an old one, which `--any-age` allows.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache, cmp_to_key
from pathlib import Path
from typing import Any, NamedTuple

from packaging.version import InvalidVersion, Version

REPOSITORY = Path(__file__).resolve().parents[1]
DEBIAN = "Debian:12"
OLDEST = timedelta(days=7)  # of the newest advisory; each of the ecosystems has some every day
ACCEPTED = REPOSITORY / "infrastructure/advisories.toml"
# Go programs that no go.mod of ours names, and Go itself: module, where its version stands, and how.
_PROGRAMS = (
    ("stdlib", "images/builder/Dockerfile", r"^ARG GO_VERSION=(\S+)$"),
    ("github.com/prometheus/statsd_exporter", "images/monitoring/Dockerfile", r"^ARG STATSD_EXPORTER_VERSION=(\S+)$"),
    (
        "github.com/containerd/containerd/v2",
        "infrastructure/local/config.py",
        r"containerd/v2/cmd/\{program\}@v([\d.]+)",
    ),
    ("go.k6.io/k6", "Makefile", r"^K6_VERSION := v(\S+)$"),
)


class Pin(NamedTuple):
    """A package that the platform is made of; where: the file that says its version, or the image that holds it."""

    ecosystem: str
    name: str
    version: str
    where: str


@dataclass(frozen=True)
class Finding:
    """An advisory that applies to a pin; ids: all its names."""

    pin: Pin
    ids: frozenset[str]
    summary: str
    fixed: tuple[str, ...]

    def __str__(self) -> str:
        remedy = f"mended in {', '.join(self.fixed)}" if self.fixed else "not mended yet"
        ids = ", ".join(sorted(self.ids))
        return f"{self.pin.name} {self.pin.version} ({self.pin.where}): {ids}: {remedy}. {self.summary}"


@dataclass(frozen=True)
class Accepted:
    """What is not to fail for, why, and until when."""

    id: str
    package: str
    reason: str
    until: date


class Unusable(Exception):
    """The database cannot be looked in."""


def pins(repository: Path = REPOSITORY) -> Iterator[Pin]:
    """What files of the repository pin: Python packages, Go modules, Go itself."""
    for name, version in re.findall(r"^([\w.-]+)==(\S+)$", (repository / "constraints.txt").read_text(), re.MULTILINE):
        yield Pin("PyPI", _normal(name), version, "constraints.txt")
    for path in sorted((repository / folder / "go.mod") for folder in ("images/minio", "infrastructure/local/node")):
        for name, version in re.findall(r"^(?:\t|require )(\S+) v(\S+)", path.read_text(), re.MULTILINE):
            yield Pin("Go", name, version, str(path.relative_to(repository)))
    for module, file, pattern in _PROGRAMS:
        (version,) = set(re.findall(pattern, (repository / file).read_text(), re.MULTILINE))
        yield Pin("Go", module, version, file)


def debian_pins(status: str, image: str) -> Iterator[Pin]:
    """The source packages of an image, by its dpkg's status file: advisories are on those."""
    for entry in status.split("\n\n"):
        fields = dict(re.findall(r"^(\w+): (.*)$", entry, re.MULTILINE))
        if "installed" in fields.get("Status", "").split():
            source, _, version = (fields.get("Source") or fields["Package"]).partition(" ")
            yield Pin(DEBIAN, source, version.strip("()") or fields["Version"], image)


def built_images(values: Path = REPOSITORY / ".build/images.yaml") -> Iterator[tuple[str, str]]:
    """The images that buildah has built here, each with its dpkg's status file."""
    if not values.exists():
        return
    images = json.loads(values.read_text())["global"]["images"]
    environment = {**os.environ, "STORAGE_DRIVER": "overlay", "BUILDAH_ISOLATION": "chroot"}
    for name, tag in images["tags"].items():
        reference = f"{images['registry']}/{name}:{tag}"

        def buildah(*arguments: str) -> str:
            command = ["buildah", *arguments]
            return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()

        try:
            container = buildah("from", "--pull-never", reference)
        except (FileNotFoundError, subprocess.CalledProcessError):
            continue  # Docker or minikube has it, or nobody.
        try:
            yield name, buildah("run", container, "--", "cat", "/var/lib/dpkg/status")
        finally:
            buildah("rm", container)


def records(database: Path, ecosystem: str) -> Iterator[Mapping[str, Any]]:
    """All advisories of an ecosystem that count; raises Unusable where the database has none."""
    archive = database / ecosystem / "all.zip"
    if not archive.exists():
        raise Unusable(f"{archive} is missing: put OSV's export of {ecosystem} there")
    with zipfile.ZipFile(archive) as files:
        for name in files.namelist():
            record = json.loads(files.read(name))
            if "withdrawn" not in record:
                yield record


def ensure_new(database: Path, ecosystems: Iterable[str], today: date) -> None:
    """Raises Unusable where the newest advisory of one of them is older than OLDEST: nobody has fetched it since."""
    since = (today - OLDEST).isoformat()
    for ecosystem in ecosystems:
        newest = ""
        for record in records(database, ecosystem):
            newest = max(newest, record.get("modified", ""))
            if newest >= since:
                break
        else:
            archive, last = database / ecosystem / "all.zip", f"newer than {newest[:10]}" if newest else "of any date"
            raise Unusable(f"{archive} has nothing {last}: fetch OSV's export anew, or allow it by --any-age")


def findings(pinned: Iterable[Pin], database: Path) -> list[Finding]:
    """What applies, once for each pin and advisory, by whatever names it goes."""
    by_package: dict[tuple[str, str], list[Pin]] = {}
    for pin in sorted(set(pinned)):
        by_package.setdefault((pin.ecosystem, pin.name), []).append(pin)
    found: list[Finding] = []
    for ecosystem in sorted({ecosystem for ecosystem, _ in by_package}):
        for record in records(database, ecosystem):
            for affected in record.get("affected", ()):
                package = affected.get("package", {})
                name = package.get("name", "")
                name = _normal(name) if ecosystem == "PyPI" else name
                if package.get("ecosystem") == ecosystem:
                    pinned_here = by_package.get((ecosystem, name), ())
                    found += [_finding(record, affected, pin) for pin in pinned_here if applies(affected, pin)]
    return _merged(found)


def _finding(record: Mapping[str, Any], affected: Mapping[str, Any], pin: Pin) -> Finding:
    events = [event for each in affected.get("ranges", ()) for event in each["events"]]
    ids = {record["id"], *record.get("aliases", ()), *record.get("upstream", ())}
    summary = record.get("summary") or record.get("details", "").partition("\n")[0]
    return Finding(pin, frozenset(ids), summary[:200], tuple(event["fixed"] for event in events if "fixed" in event))


def _merged(found: Iterable[Finding]) -> list[Finding]:
    """One finding for each pin and advisory: two databases know the same one by different names."""
    merged: list[Finding] = []
    for each in found:
        same = [other for other in merged if other.pin == each.pin and other.ids & each.ids]
        for other in same:
            merged.remove(other)
            each = Finding(each.pin, each.ids | other.ids, each.summary or other.summary, each.fixed or other.fixed)
        merged.append(each)
    return sorted(merged, key=lambda each: (each.pin, sorted(each.ids)))


def applies(affected: Mapping[str, Any], pin: Pin) -> bool:
    """Whether the version is one of those listed, or lies in one of the ranges: OSV's own rule of evaluation."""
    if pin.version in affected.get("versions", ()):
        return True
    order = _ORDERS[pin.ecosystem]
    ranges = (each["events"] for each in affected.get("ranges", ()) if each["type"] in ("ECOSYSTEM", "SEMVER"))
    return any(_within(events, pin.version, order) for events in ranges)


def _within(events: Iterable[Mapping[str, str]], version: str, order: Callable[[str, str], int]) -> bool:
    """Walks the events in the order of their versions up to this one: introduced, fixed, last_affected."""

    def compared(one: str, other: str) -> int:
        return (one != "0") - (other != "0") if "0" in (one, other) else order(one, other)  # OSV's word for the first

    def compared_events(one: Mapping[str, str], other: Mapping[str, str]) -> int:
        return compared(*(next(iter(event.values())) for event in (one, other)))

    inside = False
    for event in sorted(events, key=cmp_to_key(compared_events)):
        if "introduced" in event and compared(event["introduced"], version) <= 0:
            inside = True
        if ("fixed" in event and order(event["fixed"], version) <= 0) or (
            "last_affected" in event and order(event["last_affected"], version) < 0
        ):
            inside = False
    return inside


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _python_order(one: str, other: str) -> int:
    def key(version: str) -> Version:
        try:
            return Version(version)
        except InvalidVersion:
            return Version("0")

    return (key(one) > key(other)) - (key(one) < key(other))


def _go_order(one: str, other: str) -> int:
    """Semantic versions, https://semver.org; a pseudo-version is one of them."""

    def key(version: str) -> tuple[Any, ...]:
        release, _, pre = version.removeprefix("v").partition("+")[0].partition("-")
        numbers = [int(number) for number in re.findall(r"\d+", release)]
        parts = [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in pre.split(".")] if pre else []
        return (*[*numbers, 0, 0, 0][:3], not pre, parts)

    return (key(one) > key(other)) - (key(one) < key(other))


@cache
def _debian_order(one: str, other: str) -> int:
    less = subprocess.run(["dpkg", "--compare-versions", one, "lt", other], check=False).returncode == 0
    return -1 if less else int(one != other)


_ORDERS: Mapping[str, Callable[[str, str], int]] = {"PyPI": _python_order, "Go": _go_order, DEBIAN: _debian_order}


def accepted(path: Path = ACCEPTED) -> list[Accepted]:
    return [Accepted(**entry) for entry in tomllib.loads(path.read_text())["accepted"]]


def judged(found: Iterable[Finding], allowed: Iterable[Accepted], today: date) -> list[str]:
    """What is wrong, a line each: what applies and is not accepted, and what is accepted and does not apply."""
    wrong: list[str] = []
    used: set[str] = set()
    allowed = list(allowed)
    for finding in found:
        entries = [entry for entry in allowed if entry.package == finding.pin.name and entry.id in finding.ids]
        used.update(entry.id for entry in entries)
        if not entries:
            wrong.append(str(finding))
        elif past := [entry for entry in entries if entry.until < today]:
            wrong.append(f"{finding} (was accepted until {past[0].until}: {past[0].reason})")
    return wrong + [
        f"{entry.id} is accepted for {entry.package} and applies no more: take it out of {ACCEPTED.name}"
        for entry in allowed
        if entry.id not in used
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Look what is pinned up in the OSV database OSV_DATABASE.")
    parser.add_argument("--any-age", action="store_true", help=f"take a database without news of {OLDEST.days} days")
    any_age = parser.parse_args().any_age
    folder = os.environ.get("OSV_DATABASE")
    if not folder:
        sys.exit(f"error: OSV_DATABASE is not set: name the folder with OSV's export (PyPI, Go, {DEBIAN})")
    pinned = list(pins())
    images = dict(built_images())
    for image, status in images.items():
        pinned += debian_pins(status, f"image {image}")
    if not images:
        print("[advisories] no image is built here by buildah, so Debian's packages are not looked at: make images")
    today = datetime.now(UTC).date()
    try:
        if not any_age:
            ensure_new(Path(folder), sorted({pin.ecosystem for pin in pinned}), today)
        wrong = judged(findings(pinned, Path(folder)), accepted(), today)
    except Unusable as error:
        sys.exit(f"error: {error}")
    print(f"[advisories] {len(set(pinned))} packages looked up, {len(wrong)} to see to", *wrong, sep="\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
