"""Look at the declared datasets, and declare new ones."""

import argparse
import sys
from pathlib import Path

from mlops import datasets
from mlops.result import Result


def list_datasets() -> Result:
    """Names the datasets that packages declare, each with its label."""
    declared = (datasets.get(name) for name in datasets.names())
    return {dataset.name: dataset.label.rule for dataset in declared}


def propose(*, file: Path, name: str | None, toml: bool) -> Result:
    """Prints a declaration of the table in FILE, to be edited, and says on standard error what it is unsure of."""
    from mlops.datasets.propose import as_python
    from mlops.datasets.propose import propose as proposal_of
    from mlops.notation import to_toml

    made = proposal_of(file, name)
    print(to_toml(made.dataset) if toml else "\n".join(as_python(made)), end="" if toml else "\n")  # noqa: T201
    for doubt in made.doubts:
        print(f"# {doubt}", file=sys.stderr)  # noqa: T201
    raise SystemExit(0)  # what is printed is a file's content: no result is to follow it


def _no_options(parser: argparse.ArgumentParser) -> None:
    pass


def _propose_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="a file of separated values or of Parquet")
    parser.add_argument("--name", help="of the dataset (that of the file)")
    parser.add_argument("--toml", action="store_true", help="as dataset.toml rather than as a Python module")


COMMANDS = {"list": (list_datasets, _no_options), "propose": (propose, _propose_options)}
