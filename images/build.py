"""Build Maestro's images and bring them to the cluster: `python3 images/build.py [NAME ...]`. Standard library only.

An image's tag is a hash of all it is made from, its parents' tags included: what has not changed is neither built nor
brought anywhere again. The tags are written as a Helm values file (global.images).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path

from archive import ArchiveError
from engines import Buildah, BuildError, Docker, Engine, Log, Minikube
from recipe import REPOSITORY, Recipe, fill, read_all, write_contexts
from requirements import RequirementsError

# What others are built on or with; no pod runs them.
PARENTS_ONLY = frozenset({"base", "builder"})
WORKERS = 2
# What stands for all deliveries where an image's name stands for its build.
DELIVERY = "delivery"
# What builds from nothing usually take where two run at a time on two cores.
USUAL_SECONDS = {"minio": 150, "redis": 20}
USUAL_SECONDS_OF_OTHERS = 60
SIGN_OF_LIFE_SECONDS = 20


def say(name: str, text: str) -> None:
    # One write, since two builds speak at a time.
    print(f"[images] {name:<10} {text}\n", end="", flush=True)


def with_parents(names: Iterable[str], recipes: Mapping[str, Recipe]) -> list[str]:
    """The names and all that they stand on, in the order of `recipes`."""
    wanted: set[str] = set()

    def add(name: str) -> None:
        if name not in recipes:
            raise BuildError(f"there is no image {name!r}: there are {', '.join(recipes)}")
        wanted.add(name)
        for parent in recipes[name].parents:
            add(parent)

    for name in names:
        add(name)
    return [name for name in recipes if name in wanted]


class Build:
    """One run: which images are to be built or delivered, and doing it: parents first, two builds and one delivery."""

    def __init__(
        self, engine: Engine, recipes: Mapping[str, Recipe], references: Mapping[str, str], contexts: Path, logs: Path
    ) -> None:
        self.engine = engine
        self.recipes = recipes
        self.references = references
        self.contexts = contexts
        self.logs = {name: Log(logs / f"{name}.log") for name in (*recipes, DELIVERY)}
        self.started: dict[str, float] = {}

    def plan(self, names: Iterable[str]) -> tuple[set[str], set[str]]:
        """Which images have to be built, and which delivered. A parent is built only for a child that has to be."""
        to_build: set[str] = set()

        def need(name: str) -> None:
            if name not in to_build and not self.engine.has(self.references[name]):
                to_build.add(name)
                for parent in self.recipes[name].parents:
                    need(parent)

        to_deliver: set[str] = set()
        for name in names:
            if name in PARENTS_ONLY:
                need(name)
            elif not self.engine.delivered(self.references[name]):
                to_deliver.add(name)
                need(name)
        return to_build, to_deliver

    def run(self, names: Iterable[str]) -> None:
        """Build and deliver the images; raise the first BuildError when what is under way has ended."""
        to_build, to_deliver = self.plan(names)
        waiting = sorted(to_build, key=lambda name: -self.chain_seconds(name, to_build))
        ready = [name for name in self.recipes if name in to_deliver - to_build]
        usual = sum(USUAL_SECONDS.get(name, USUAL_SECONDS_OF_OTHERS) for name in to_build) / WORKERS
        if usual > USUAL_SECONDS_OF_OTHERS:
            say("all", f"{len(to_build)} to build, which usually takes {usual / 60:.0f} min from nothing")
        running: dict[Future[None], str] = {}
        failure: BaseException | None = None
        with ThreadPoolExecutor(WORKERS + 1) as pool:
            while running or ((waiting or ready) and not failure):
                for name, task in [] if failure else self.startable(waiting, ready, list(running.values())):
                    self.started[name] = time.monotonic()
                    running[pool.submit(task)] = name
                for name, error in self.ended(running):
                    failure = failure or error
                    if name in to_deliver and not error:
                        ready.append(name)
        if failure:
            raise failure

    def chain_seconds(self, name: str, to_build: Collection[str]) -> int:
        """What usually passes from the start of an image's build to the end of the last one that waits for it."""
        children = [other for other in to_build if name in self.recipes[other].parents]
        own = USUAL_SECONDS.get(name, USUAL_SECONDS_OF_OTHERS)
        return own + max((self.chain_seconds(child, to_build) for child in children), default=0)

    def startable(
        self, waiting: list[str], ready: list[str], running: Collection[str]
    ) -> Iterator[tuple[str, Callable[[], None]]]:
        """What can be begun now: builds in the order of `waiting`, and one delivery. It is taken off these lists."""
        unfinished = {*waiting, *running}
        places = WORKERS - len({*running} - {DELIVERY})
        free = [name for name in waiting if not unfinished.intersection(self.recipes[name].parents)]
        for name in free[:places]:
            waiting.remove(name)
            yield name, partial(self.build, name)
        # All that is ready goes at once, so that a layer that two images share goes once.
        if ready and DELIVERY not in running:
            yield DELIVERY, partial(self.deliver, tuple(ready))
            ready.clear()

    def ended(self, running: dict[Future[None], str]) -> Iterator[tuple[str, BaseException | None]]:
        """Wait for what ends first, and take it off; now and then say how far what runs still has come."""
        done, _ = wait(running, SIGN_OF_LIFE_SECONDS, FIRST_COMPLETED)
        for future in done:
            name = running.pop(future)
            if error := future.exception():
                say(name, f"failed after {self.seconds(name)}")
            yield name, error
        if not done:
            for name in running.values():
                say(name, f"{self.seconds(name)}: {' '.join(self.logs[name].tail(1))[:90]}")

    def build(self, name: str) -> None:
        say(name, "building")
        self.engine.build(self.references[name], self.contexts / name, self.logs[name])
        say(name, f"built after {self.seconds(name)}")

    def deliver(self, names: Sequence[str]) -> None:
        moved = self.engine.deliver([self.references[name] for name in names], self.logs[DELIVERY])
        if moved:
            say(DELIVERY, f"{', '.join(names)}: {moved} after {self.seconds(DELIVERY)}")

    def seconds(self, name: str) -> str:
        return f"{time.monotonic() - self.started[name]:.1f} s"


def labels(repository: Path) -> dict[str, str]:
    """What the OCI labels say: the version of the project and the commit it is built from."""
    version = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["version"]
    git = ["git", "-C", str(repository), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        revision = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:
        revision = ""
    return {"VERSION": version, "REVISION": revision or "unknown"}


def write_values(path: Path, registry: str, tags: Mapping[str, str], deployed: Collection[str]) -> None:
    """Write global.images for Helm. Deployed images that were built before and not now keep their tags."""
    known: dict[str, str] = {}
    if path.exists():
        images = json.loads(path.read_text())["global"]["images"]
        known = images["tags"] if images["registry"] == registry else {}
    kept = {name: tag for name, tag in {**known, **tags}.items() if name in deployed}
    values = {"global": {"images": {"registry": registry, "tags": kept}}}
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    # JSON is YAML, and Python's library writes it.
    new.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
    new.replace(path)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="images to build (default: all)")
    parser.add_argument("--engine", choices=("buildah", "docker", "minikube"), default="buildah")
    parser.add_argument(
        "--registry", default="localhost/maestro", help="what image names begin with (default: %(default)s)"
    )
    parser.add_argument("--push", action="store_true", help="docker: push to the registry")
    parser.add_argument(
        "--node",
        metavar="COMMAND",
        default="",
        help="buildah: the local node's command; without it, build only",
    )
    parser.add_argument(
        "--values", type=Path, default=REPOSITORY / ".build/images.yaml", help="Helm values file to write"
    )
    parser.add_argument(
        "--wheelhouse", type=Path, help="a folder of wheels that go before those of an index, as PyTorch's for CPUs"
    )
    parser.add_argument(
        "--torch", choices=("cpu", "gpu"), default="cpu", help="gpu: the index's (default: %(default)s)"
    )
    parser.add_argument("--list-tags", action="store_true", help="print the images' tags and build nothing")
    return parser.parse_args()


def make_engine(chosen: argparse.Namespace) -> Engine:
    match chosen.engine:
        case "docker":
            return Docker(chosen.push)
        case "minikube":
            return Minikube(os.environ.get("MINIKUBE_PROFILE", "maestro"))
        case _:
            return Buildah(chosen.node)


def run(chosen: argparse.Namespace) -> None:
    started = time.monotonic()
    recipes = read_all()
    names = list(chosen.names) or list(recipes)
    needed = with_parents(names, recipes)
    with tempfile.TemporaryDirectory() as folder:
        contexts = Path(folder)
        wheelhouse = chosen.wheelhouse if chosen.torch == "cpu" else None
        tags = write_contexts([recipes[name] for name in needed], contexts, wheelhouse=wheelhouse)
        if chosen.list_tags:
            print(*(f"{name} {tags[name]}" for name in needed), sep="\n")
            return
        references = {name: f"{chosen.registry}/{name}:{tag}" for name, tag in tags.items()}
        engine = make_engine(chosen)
        logs = REPOSITORY / ".build/images"
        say("prepare", f"{chosen.engine}; logs are in {logs}")
        engine.prepare(Log(logs / "prepare.log"))
        for name in needed:
            values = {f"{parent.upper()}_IMAGE": references[parent] for parent in recipes[name].parents}
            if not recipes[name].parents and engine.debian:
                values["BASE_IMAGE"] = engine.debian
            fill(contexts / name, {**values, **labels(REPOSITORY)})
        Build(engine, {name: recipes[name] for name in needed}, references, contexts, logs).run(names)
    write_values(chosen.values, chosen.registry, {name: tags[name] for name in names}, recipes.keys() - PARENTS_ONLY)
    say("all", f"{len(names)} images up to date in {time.monotonic() - started:.1f} s")


def main() -> None:
    try:
        run(options())
    except (ArchiveError, BuildError, RequirementsError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted: run the same command again to go on")


if __name__ == "__main__":
    main()
