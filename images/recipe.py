"""What an image is made from. A Dockerfile says it itself: by what it copies, and by the images its arguments name.

The build context of an image holds exactly that and nothing else, so the hash of the context is the image's tag: what
is not copied, is no content (times, owners) or is not used (other extras, other packages' versions) does not count.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from requirements import normal, used_constraints, used_project

REPOSITORY = Path(__file__).resolve().parent.parent
# What Python, an editor or a reader leaves beside the sources. Names, as the shell matches them.
IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc", "*.egg-info", ".*", "*~", "README.md")
# One age for all files: neither the tag nor the layer cache is to see when somebody checked them out. A zip file, which
# a wheel is, knows no time before 1980.
MODIFIED = 1_577_836_800

_COPY = re.compile(r"^COPY\s+(?P<options>(?:--\S+\s+)*)(?P<paths>.+)$", re.MULTILINE)
_PARENT = re.compile(r"^ARG\s+(\w+)_IMAGE\b", re.MULTILINE)
_EXTRA = re.compile(r'/opt/tools/bin/install-extra\s+"?([\w-]+)')
# With the lines that it goes on in.
_INSTRUCTION = re.compile(r"(?:.*\\\n)*.*\n?")


@dataclass(frozen=True)
class Recipe:
    """An image's Dockerfile and what it says about itself.

    parents: the images of this folder it is built on or with. sources: paths in the repository that it copies.
    extra: the extra of pyproject.toml that it installs, if any.
    """

    name: str
    dockerfile: str
    parents: tuple[str, ...]
    sources: tuple[str, ...]
    extra: str | None

    @classmethod
    def read(cls, name: str, dockerfile: str) -> Recipe:
        parents = {parent.lower() for parent in _PARENT.findall(dockerfile)} - {name}
        sources = {
            source
            for copy in _COPY.finditer(dockerfile)
            if "--from=" not in copy["options"]
            for source in copy["paths"].split()[:-1]
        }
        extra = _EXTRA.search(dockerfile)
        return cls(name, dockerfile, tuple(sorted(parents)), tuple(sorted(sources)), extra[1] if extra else None)


def read_all(repository: Path = REPOSITORY) -> dict[str, Recipe]:
    """All recipes by name, parents before those that stand on them."""
    dockerfiles: dict[str, str] = {}
    for path in (repository / "images").glob("*/Dockerfile"):
        dockerfiles |= _dockerfiles(path)
    recipes = {name: Recipe.read(name, dockerfiles[name]) for name in sorted(dockerfiles)}
    ordered: dict[str, Recipe] = {}

    def add(name: str) -> None:
        for parent in recipes[name].parents:
            add(parent)
        ordered.setdefault(name, recipes[name])

    for name in recipes:
        add(name)
    return ordered


def _dockerfiles(path: Path) -> dict[str, str]:
    """The Dockerfiles by image that this one stands for: those of images.toml beside it, or its folder's own."""
    text, declared = path.read_text(), path.with_name("images.toml")
    if not declared.exists():
        return {path.parent.name: text}
    return {name: _made_of(text, arguments) for name, arguments in tomllib.loads(declared.read_text()).items()}


def _made_of(text: str, arguments: Mapping[str, str]) -> str:
    """A Dockerfile with an image's arguments, without the instructions that name an empty one."""
    empty = [f"${{{name}}}" for name, value in arguments.items() if not value]
    used = [part for part in _INSTRUCTION.findall(text) if not any(name in part for name in empty)]
    return _with_values("".join(used), arguments)


def write_contexts(
    recipes: Iterable[Recipe], folder: Path, repository: Path = REPOSITORY, wheelhouse: Path | None = None
) -> dict[str, str]:
    """Write a build context below `folder` for each recipe; parents come first. Returns the images' tags by name.

    wheelhouse: a folder of wheels that go before those of an index, where an image uses their versions.
    """
    tags: dict[str, str] = {}
    for recipe in recipes:
        context = folder / recipe.name
        context.mkdir(parents=True)
        (context / "Dockerfile").write_text(recipe.dockerfile)
        for source in recipe.sources:
            _copy(repository / source, context / source)
        if recipe.extra:
            _keep_what_is_used(context, recipe.extra)
            _take_wheels(context, wheelhouse)
        _normalise(context)
        tags[recipe.name] = _digest(context, [tags[parent] for parent in recipe.parents])
    return tags


def fill(context: Path, values: Mapping[str, str]) -> None:
    """Write the values of arguments into the Dockerfile of a context, so that it needs no options.

    minikube hands options to a builder that differs with its container runtime, and buildah's layer cache overlooks
    arguments in a LABEL.
    """
    path = context / "Dockerfile"
    path.write_text(_with_values(path.read_text(), values))


def _with_values(text: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        argument = f"ARG {name}={value}".replace("\\", r"\\")
        text = re.sub(rf"^ARG {name}(=.*)?$", argument, text, flags=re.MULTILINE)
        text = text.replace(f"${{{name}}}", value)
    return text


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=IGNORED, symlinks=True)
    else:
        shutil.copy(source, target)


def _keep_what_is_used(context: Path, extra: str) -> None:
    project, constraints = context / "pyproject.toml", context / "constraints.txt"
    reduced, roots = used_project(project.read_text(), extra)
    project.write_text(reduced)
    constraints.write_text(used_constraints(constraints.read_text(), roots))


def _take_wheels(context: Path, wheelhouse: Path | None) -> None:
    """The wheels of the versions that are pinned, those with a local part such as `+cpu` among them."""
    pins, target = set((context / "constraints.txt").read_text().splitlines()), context / "wheels"
    target.mkdir()
    for wheel in sorted(wheelhouse.glob("*.whl")) if wheelhouse else ():
        name, version = wheel.name.split("-")[:2]
        if f"{normal(name)}=={version.partition('+')[0]}" in pins:
            shutil.copy(wheel, target)


def _walk(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_symlink() or path.is_file())


def _normalise(context: Path) -> None:
    for path in [*context.rglob("*"), context]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        os.utime(path, (MODIFIED, MODIFIED), follow_symlinks=False)


def _digest(context: Path, parent_tags: list[str]) -> str:
    digest = hashlib.sha256("\0".join(parent_tags).encode())
    for path in _walk(context):
        content = os.fsencode(path.readlink()) if path.is_symlink() else path.read_bytes()
        mode = "link" if path.is_symlink() else f"{path.stat().st_mode & 0o111:o}"
        digest.update(f"\0{path.relative_to(context)}\0{mode}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:12]
