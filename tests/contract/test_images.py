"""What charts run in an image, and what that code imports, is what the image's Dockerfile puts there."""

import ast
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.charts.conftest import ROOT, containers, pod_specs, render

# The build is a program, not a package: its modules find each other in its own folder.
sys.path.insert(0, str(ROOT / "images"))
from recipe import Recipe, read_all
from requirements import normal, used_constraints, used_project

sys.path.remove(str(ROOT / "images"))

RECIPES = read_all()


def that_run(words: str) -> list[str]:
    """The images of which a chart's container has these words in an argument or as arguments that follow each other."""
    found = {
        container["image"].rpartition("/")[2].partition(":")[0]
        for _, spec in pod_specs(render("maestro"))
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


@pytest.mark.parametrize("folder", ["mlops/sensors", "mlops/stores/sensors"])
def test_the_sensor_trainers_image_has_what_its_code_imports(folder: str) -> None:
    there, distributions = packages(RECIPES["sensor-trainer"]), packages_distributions()
    wanted = {name for name in imported(ROOT / folder) if name in distributions} - {"mlops"}
    assert wanted
    assert not {name for name in wanted if not there.intersection(map(normal, distributions[name]))}
