"""The command line: a group a domain, a command a step. `parser()` is what DAG tests check arguments against."""

import argparse
import inspect
import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

from mlops.data_quality import commands as data_quality
from mlops.datasets import commands as datasets
from mlops.drift import commands as drift
from mlops.features import commands as features
from mlops.ingestion import commands as ingestion
from mlops.notify import commands as notify
from mlops.registry import commands as registry
from mlops.result import EXIT_REFUSED, EXIT_SKIPPED, Failure, Refused, Result, Skip, encode, hand_back, shorten
from mlops.sensor_trainer import commands as sensor_trainer
from mlops.serving import commands as serving
from mlops.stores.declarations import look_in_bucket
from mlops.training import commands as training

GROUPS = {
    "datasets": datasets,
    "ingestion": ingestion,
    "data-quality": data_quality,
    "drift": drift,
    "features": features,
    "training": training,
    "registry": registry,
    "serving": serving,
    "sensor-trainer": sensor_trainer,
    "notify": notify,
}

log = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line, built without importing a heavy library."""
    root = argparse.ArgumentParser(
        prog="mlops", description="The steps that run in Maestro's pods.", allow_abbrev=False
    )
    groups = root.add_subparsers(title="groups", dest="group", metavar="GROUP", required=True)
    for name, module in GROUPS.items():
        summary = (inspect.getdoc(module) or "").splitlines()[0]
        group = groups.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        commands = group.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
        for command, (run, add_options) in module.COMMANDS.items():
            _add_command(commands, command, run, add_options)
    return root


def main(arguments: Sequence[str]) -> int:
    """Runs one command, hands its result or the cause of its failure back, and returns the exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("mlops").setLevel(logging.INFO)
    options = vars(parser().parse_args(arguments))
    run = options.pop("run")
    look_in_bucket()
    del options["group"], options["command"]
    try:
        message, code = encode(run(**options)), 0
    except Skip as skip:
        log.warning("skipped: %s", skip)
        message, code = json.dumps({"skipped": shorten(str(skip), 2000)}, ensure_ascii=False), EXIT_SKIPPED
    except Failure as failure:
        log.error("%s", failure, exc_info=failure.__cause__)
        message, code = shorten(str(failure)), EXIT_REFUSED if isinstance(failure, Refused) else 1
    except Exception as error:
        log.exception("the command failed")
        message, code = shorten(f"{type(error).__name__}: {error}"), 1
    hand_back(message)
    return code


def _add_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: Callable[..., Result],
    add_options: Callable[[argparse.ArgumentParser], Any],
) -> None:
    description = inspect.getdoc(run) or ""
    command = commands.add_parser(
        name,
        help=description.splitlines()[0],
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_options(command)
    command.set_defaults(run=run)
