"""What charts run in an image, and what that code imports, is what its Dockerfile puts there; and what it does not."""

import ast
import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.charts.conftest import ROOT, containers, pod_specs
from tests.charts.images import RECIPES, Recipe, normal, used_constraints, used_project
from tests.charts.profiles import maestro


def that_run(words: str) -> list[str]:
    """The images of which a chart's container has these words in an argument or as arguments that follow each other."""
    found = {
        container["image"].rpartition("/")[2].partition(":")[0]
        for _, spec in pod_specs(maestro("default"))
        for container in containers(spec)
        if words in " ".join(container.get("args", ()))
    }
    assert found, words
    return sorted(found)


def packages(recipe: Recipe) -> set[str]:
    """What the extra of an image brings."""
    assert recipe.extra is not None
    _, roots = used_project((ROOT / "pyproject.toml").read_text(), recipe.extra)
    pins = used_constraints((ROOT / "constraints.txt").read_text(), roots)
    return {line.partition("==")[0] for line in pins.splitlines()}


def imported(folder: Path) -> Iterator[str]:
    """The names of top-level packages that the modules below a folder import, wherever in them."""
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module.partition(".")[0]


def test_images_whose_pods_wait_for_a_migration_have_the_gate_and_its_driver() -> None:
    for name in that_run("release-gate"):
        assert "images/base/release_gate.py" in RECIPES[name].sources, name
        assert "psycopg2-binary" in packages(RECIPES[name]), name


def test_images_whose_pods_run_commands_of_the_platform_hold_it() -> None:
    for name in that_run("python -m mlops"):
        lineage = [RECIPES[name]]
        for recipe in lineage:
            lineage += [RECIPES[parent] for parent in recipe.parents]
        assert any("mlops" in recipe.sources for recipe in lineage), name


@pytest.mark.parametrize("folder", [f"mlops/sensor_trainer/{part}" for part in ("api", "model", "store", "worker")])
def test_the_sensor_trainers_image_has_what_its_code_imports(folder: str) -> None:
    there, distributions = packages(RECIPES["sensor-trainer"]), packages_distributions()
    wanted = {name for name in imported(ROOT / folder) if name in distributions} - {"mlops"}
    assert wanted
    assert not {name for name in wanted if not there.intersection(map(normal, distributions[name]))}


def test_an_image_of_the_python_dockerfile_gives_the_arguments_that_are_asked_for_and_no_others() -> None:
    dockerfile = (ROOT / "images/python/Dockerfile").read_text()
    asked = set(re.findall(r"\$\{(\w+)\}", dockerfile)) - set(re.findall(r"^ARG (\w+)", dockerfile, re.MULTILINE))
    for name, given in tomllib.loads((ROOT / "images/python/images.toml").read_text()).items():
        assert given.keys() == asked, name


# What holds of every image that a pod may run


def stages(recipe: Recipe) -> list[list[tuple[str, str]]]:
    """The instructions of each stage of a Dockerfile, its FROM first: (word, what follows on one line)."""
    text = re.sub(r"^\s*#.*\n", "", recipe.dockerfile, flags=re.MULTILINE).replace("\\\n", " ")
    found: list[list[tuple[str, str]]] = []
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        if word == "FROM":
            found.append([])
        if found and word:
            found[-1].append((word, " ".join(rest.split())))
    return found


def last(recipe: Recipe, word: str) -> list[str]:
    """What follows a word in the stage that becomes the image."""
    return [rest for found, rest in stages(recipe)[-1] if found == word]


DELIVERED = [pytest.param(recipe, id=name) for name, recipe in RECIPES.items() if name != "builder"]
# What compiles, fetches or installs, by Debian's names.
TOOLS = re.compile(
    r"gcc|g\+\+|clang|build-essential|make|cmake|golang|rustc|cargo|git|curl|wget|.+-dev|.*pip|.*-venv|sudo"
)
# What an image has of these all the same: by it Airflow clones the repository that DAG files are in.
USED = {"airflow": {"git"}}


@pytest.mark.parametrize("recipe", DELIVERED)
def test_an_image_ends_as_the_user_without_rights(recipe: Recipe) -> None:
    """Who names no user has the parent's, which ends as this one too."""
    (parent,) = last(recipe, "FROM")
    assert parent in (("${BASE_IMAGE}",) if recipe.name != "datasets" else ("${TASK_IMAGE}",))
    assert last(recipe, "USER")[-1:] in ([["10001:10001"], []] if recipe.name != "base" else [["10001:10001"]])


@pytest.mark.parametrize("recipe", DELIVERED)
def test_an_image_holds_nothing_that_it_was_built_with(recipe: Recipe) -> None:
    for run in last(recipe, "RUN"):
        for packages in re.findall(r"apt-get install ([^&]+)", run):
            assert "--no-install-recommends" in packages
            tools = {package for package in packages.split() if TOOLS.fullmatch(package)}
            assert tools == USED.get(recipe.name, set())
            assert "/var/lib/apt/lists/*" in run.rpartition("rm -rf")[2], "in the same layer"
        assert not re.search(r"\b(?:pip|uv|go) install\b", run), "by the builder's programs only"
        # Bound for the instruction, so that neither they nor a credential is in a layer.
        assert ("/opt/tools" in run) == ("--mount=type=bind,from=builder,source=/opt/tools,target=/opt/tools" in run)
    copied = [copy for copy in last(recipe, "COPY") if "--from" in copy]
    assert all(re.fullmatch(r"--from=(build|fetch) (/out/\w+|/datasets) \S+", copy) for copy in copied)


@pytest.mark.parametrize("recipe", DELIVERED)
def test_an_image_says_what_it_is_and_leaves_its_health_to_the_charts(recipe: Recipe) -> None:
    (labels,) = last(recipe, "LABEL")
    title = r'org\.opencontainers\.image\.title="Maestro [\w ]+"'
    assert re.fullmatch(
        title
        + r' org\.opencontainers\.image\.version="\$\{VERSION\}" org\.opencontainers\.image\.revision="\$\{REVISION\}"',
        labels,
    )
    assert not last(recipe, "HEALTHCHECK")
    assert len(last(recipe, "CMD")) == 1
    assert last(recipe, "ENTRYPOINT") == (['["/usr/bin/tini", "--"]'] if recipe.name == "base" else [])


@pytest.mark.parametrize("recipe", DELIVERED)
def test_python_finds_its_bytecode_in_an_image_and_may_leave_none(recipe: Recipe) -> None:
    assert "PYTHONDONTWRITEBYTECODE" not in recipe.dockerfile
    for program in re.findall(r"/opt/tools/bin/(install-\w+)", recipe.dockerfile):
        script = (ROOT / "images/builder" / program).read_text()
        installs = [line for line in script.splitlines() if "uv pip install" in line]
        assert installs
        assert all("--compile-bytecode" in line for line in installs)
        assert "PYC_INVALIDATION_MODE=UNCHECKED_HASH" in script


# Programs that no package brings: where an image has them from.
PROGRAMS = {"minio", "pod-states", "statsd_exporter", "postgresql-start", "redis-start", "release-gate"}


def test_a_program_of_ours_that_a_container_starts_is_in_its_image() -> None:
    started = {
        (container["image"].rpartition("/")[2].partition(":")[0], program)
        for _, spec in pod_specs(maestro("default"))
        for container in containers(spec)
        for program in PROGRAMS
        if re.search(rf"^{program}\b", "\n".join(container.get("args", ())), re.MULTILINE)
    }
    assert {program for _, program in started} == PROGRAMS
    for name, program in started:
        copies = last(RECIPES[name], "COPY")
        file = program.replace("-", "[-_]")
        assert [copy for copy in copies if re.search(rf"/{file}(\.py)?( \S+)* /usr/local/bin/({program})?$", copy)], (
            f"{name} {program}"
        )
