"""From a validated table to a training and a test set."""

import argparse
import logging

from mlops import datasets
from mlops.config import RunIdentity, Settings
from mlops.result import Result
from mlops.stores.object_store import data_bucket

log = logging.getLogger(__name__)


def preprocess(*, dataset: str, data: str) -> Result:
    """Drops repeated rows, sets types, and fills missing values as the dataset declares."""
    from mlops.features.preprocess import preprocess as clean

    declared, key = datasets.get(dataset), RunIdentity.from_environment().key("clean")
    store = data_bucket(Settings.from_environment())
    table = store.read_table(data)
    cleaned = clean(table, declared)
    store.write_table(key, cleaned)
    dropped = len(table) - len(cleaned)
    log.info("%d rows kept, %d dropped", len(cleaned), dropped)
    return {"data": key, "rows": len(cleaned), "dropped": dropped}


def engineer(*, dataset: str, data: str) -> Result:
    """Splits a clean table as the dataset declares and keeps the columns that the model sees."""
    from mlops.features.engineer import engineer as features_of
    from mlops.features.split import split

    declared, identity = datasets.get(dataset), RunIdentity.from_environment()
    store = data_bucket(Settings.from_environment())
    train, test = split(store.read_table(data), declared)
    keys = {"train": identity.key("train"), "test": identity.key("test")}
    for name, part in (("train", train), ("test", test)):
        store.write_table(keys[name], features_of(part, declared))
    log.info("%d rows to train on, %d to test on", len(train), len(test))
    return {**keys, "features": len(declared.features), "train_rows": len(train), "test_rows": len(test)}


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--data", required=True, metavar="KEY", help="the table's key in the data bucket")


COMMANDS = {"preprocess": (preprocess, _options), "engineer": (engineer, _options)}
