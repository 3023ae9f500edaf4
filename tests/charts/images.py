"""What the build knows of images/. It is a program, not a package: its modules find each other in its own folder."""

import sys

from tests.charts.conftest import ROOT

sys.path.insert(0, str(ROOT / "images"))
from recipe import Recipe, read_all
from requirements import normal, used_constraints, used_project

sys.path.remove(str(ROOT / "images"))

__all__ = ["RECIPES", "Recipe", "normal", "used_constraints", "used_project"]

RECIPES = read_all()
