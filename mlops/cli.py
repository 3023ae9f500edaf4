"""The command line: a group a domain, a command a step. `parser()` is what DAG tests check arguments against."""

import argparse
import inspect
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any, TypeAlias

from mlops import datasets, logs, measure, models
from mlops.config import PushgatewaySettings
from mlops.result import EXIT_REFUSED, EXIT_SKIPPED, Failure, Refused, Result, Skip, encode, hand_back, shorten

Command: TypeAlias = tuple[Callable[..., Result], Callable[[argparse.ArgumentParser], Any]]

# The module of each group. It is imported where the group is asked for: all of them together take longer than a light
# command works.
GROUPS = {
    "datasets": "mlops.datasets.commands",
    "ingestion": "mlops.ingestion.commands",
    "data-quality": "mlops.data_quality.commands",
    "drift": "mlops.drift.commands",
    "features": "mlops.features.commands",
    "training": "mlops.training.commands",
    "registry": "mlops.registry.commands",
    "serving": "mlops.serving.commands",
    "inference": "mlops.inference.commands",
    "sensor-trainer": "mlops.sensor_trainer.commands",
    "health": "mlops.health.commands",
    "notify": "mlops.notify.commands",
    "retention": "mlops.retention.commands",
}

# Of a table in S3 polars would hold 128 row groups that it has not come to yet: of ten million rows all. Two keep it
# busy (preprocessing of 10 million rows x 13: 304 MiB instead of 739, in the same CPU time).
_READ_AHEAD = {"POLARS_ROW_GROUP_PREFETCH_SIZE": "2", "POLARS_DOWNLOAD_CHUNK_SIZE": str(8 << 20)}

_IN_BUCKET = "mlops.stores.declarations"  # imported by who asks for what no package declares

log = logging.getLogger(__name__)


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """As wide as the terminal. argparse makes one for each option, and itself asks shutil, whose import takes longer
    than all options together.
    """

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_columns() - 2)


def parser(only: str | None = None) -> argparse.ArgumentParser:
    """The parser of the whole command line, or of one group of it, built without importing a heavy library."""
    root = argparse.ArgumentParser(
        prog="mlops",
        description="The steps that run in Maestro's pods.",
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    groups = root.add_subparsers(title="groups", dest="group", metavar="GROUP", required=True)
    for name in GROUPS if only is None else (only,):
        _add_group(groups, name)
    return root


def commands(group: str) -> Mapping[str, Command]:
    """The commands of a group by their names."""
    found: Mapping[str, Command] = _module(group).COMMANDS
    return found


def main(arguments: Sequence[str]) -> int:
    """Runs one command, hands its result or the cause of its failure back, and returns the exit code."""
    for name, value in _READ_AHEAD.items():
        os.environ.setdefault(name, value)
    named = arguments[0] if arguments and arguments[0] in GROUPS else None
    options = vars(parser(named).parse_args(arguments))
    run = options.pop("run")
    logs.begin(options.get("model"))
    _look_in_bucket()
    measured = measure.begin(options.pop("group"), options.pop("command"))
    message, code, error = _ended(run, options)
    measured.end(error)
    hand_back(message)
    _push(measured)
    return code


def _ended(run: Callable[..., Result], options: Mapping[str, Any]) -> tuple[str, int, measure.Error | None]:
    """Message, exit code and kind of error of a command that is run here."""
    try:
        result = run(**options)
        measure.count_rows(result)
        return encode(result), 0, None
    except Skip as skip:
        log.warning("skipped: %s", skip)
        return json.dumps({"skipped": shorten(str(skip), 2000)}, ensure_ascii=False), EXIT_SKIPPED, None
    except Refused as failure:
        log.error("%s", failure, exc_info=failure.__cause__)
        return shorten(str(failure)), EXIT_REFUSED, "refused"
    except Failure as failure:
        log.error("%s", failure, exc_info=failure.__cause__)
        return shorten(str(failure)), 1, "failed"
    except Exception as error:
        log.exception("the command failed")
        return shorten(f"{type(error).__name__}: {error}"), 1, "crashed"


def _push(measured: measure.Measured) -> None:
    """After the result is handed back: whatever becomes of the numbers, the command has ended as it did."""
    settings = PushgatewaySettings.from_environment()
    if settings.host is not None:
        import_module("mlops.stores.metrics").push(measured, settings)


def _look_in_bucket() -> None:
    """Has commands find what the data bucket declares, where they are told of it and no package declares the name."""
    datasets.look_elsewhere(lambda name: import_module(_IN_BUCKET).find_dataset(name))
    models.look_elsewhere(lambda name: import_module(_IN_BUCKET).find_model(name))


def _columns() -> int:
    if (told := os.environ.get("COLUMNS", "")).isdecimal() and int(told):
        return int(told)
    try:
        return os.get_terminal_size(sys.__stdout__.fileno()).columns or 80  # type: ignore[union-attr]
    except (AttributeError, OSError, ValueError):  # there is no standard output, or it is no terminal
        return 80


def _module(group: str) -> ModuleType:
    return import_module(GROUPS[group])


def _add_group(groups: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str) -> None:
    summary = (inspect.getdoc(_module(name)) or "").splitlines()[0]
    group = groups.add_parser(name, help=summary, description=summary, formatter_class=_Formatter, allow_abbrev=False)
    listed = group.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    for command, (run, add_options) in commands(name).items():
        _add_command(listed, command, run, add_options)


def _add_command(
    listed: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: Callable[..., Result],
    add_options: Callable[[argparse.ArgumentParser], Any],
) -> None:
    description = inspect.getdoc(run) or ""
    command = listed.add_parser(
        name,
        help=description.splitlines()[0],
        description=description,
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    add_options(command)
    command.set_defaults(run=run)
