"""Look at the declared datasets."""

import argparse

from mlops import datasets
from mlops.result import Result


def list_datasets() -> Result:
    """Names the declared datasets, each with its label."""
    declared = (datasets.get(name) for name in datasets.names())
    return {dataset.name: dataset.label.rule for dataset in declared}


def _no_options(parser: argparse.ArgumentParser) -> None:
    pass


COMMANDS = {"list": (list_datasets, _no_options)}
