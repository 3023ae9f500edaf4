"""Tell people how a run ended."""

import argparse
import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from mlops.config import NotificationSettings, RunIdentity
from mlops.notify.message import Link, Message, Number, run_link
from mlops.notify.telling import tell
from mlops.result import Result


def send(
    *,
    text: list[str],
    metrics: Mapping[str, Number],
    run_id: str | None,
    model: str | None,
    version: str | None,
    page: list[tuple[str, str]],
    link: list[tuple[str, str]],
) -> Result:
    """Sends a message by all channels that are set up, with links to the run; without one it is only logged.

    A channel that does not take it fails nothing: the others tell of it, and `lost` of the result says why.
    """
    links = (*_links(run_id, model, version, page), *(Link(name, place) for name, place in link))
    return tell(Message("\n".join(text), metrics, links)).as_result()


def _links(run_id: str | None, model: str | None, version: str | None, page: list[tuple[str, str]]) -> Iterator[Link]:
    """To pages of Airflow and MLflow, at the addresses at which people open them."""
    settings, run = NotificationSettings.from_environment(), RunIdentity.if_told()
    airflow, mlflow = settings.airflow_address.rstrip("/"), settings.mlflow_address.rstrip("/")
    if run:
        dag, of_dag = quote(run.dag_id, safe=""), quote(run.run_id, safe="")
        yield run_link(airflow, run.dag_id, run.run_id)
        for name, place in page:
            task, _, file = place.partition("/")
            yield Link(name, f"{airflow}/reports/{dag}/{of_dag}/{quote(task, safe='')}/-1/{quote(file)}")
    if run_id:
        yield Link("Run in MLflow", f"{mlflow}/#/runs/{quote(run_id, safe='')}")
    if model and version:
        yield Link("Model version", f"{mlflow}/#/models/{quote(model, safe='')}/versions/{quote(version, safe='')}")


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--text", required=True, action="append", help="a line of the message, the first its subject; repeatable"
    )
    parser.add_argument("--metrics", type=_metrics, default={}, metavar="JSON", help="a table: values by their names")
    parser.add_argument("--run-id", metavar="RUN", help="of MLflow, to link to")
    parser.add_argument("--model", help="with --version: a registered model, to link to")
    parser.add_argument("--version")
    parser.add_argument(
        "--page",
        type=_named,
        action="append",
        default=[],
        metavar="NAME=TASK/FILE",
        help="a page that a task of this run has left in the bucket of reports, to link to; repeatable",
    )
    parser.add_argument(
        "--link", type=_named, action="append", default=[], metavar="NAME=ADDRESS", help="another link; repeatable"
    )


def _metrics(text: str) -> Mapping[str, Number]:
    found: Any = json.loads(text)
    if not isinstance(found, dict) or any(isinstance(value, list | dict) for value in found.values()):
        raise argparse.ArgumentTypeError(f'{text} is not like {{"auc": 0.71}}')
    return found


def _named(text: str) -> tuple[str, str]:
    name, equals, place = text.partition("=")
    if not (name and equals and place):
        raise argparse.ArgumentTypeError(f"{text} is not like 'Model card=register_model/model_card.html'")
    return name, place


COMMANDS = {"send": (send, _options)}
