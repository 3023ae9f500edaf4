"""What a command writes to its log: text for people, or a JSON object a line, with the task that it is of."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping

from mlops.config import LogSettings, RunIdentity
from mlops.log_lines import JSON_FORMAT, as_json
from mlops.masking import Masks, secrets_of

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def begin(model: str | None) -> None:
    """Has this process log as its pod is told. model: that the command is asked about, where it is."""
    logging.basicConfig(level=logging.WARNING, format=_TEXT)
    logging.getLogger("mlops").setLevel(logging.INFO)
    if LogSettings.from_environment().format == JSON_FORMAT:
        logging.captureWarnings(True)
        formatter = JsonFormatter(about(model))
        for handler in logging.getLogger().handlers:
            handler.setFormatter(formatter)


def about(model: str | None) -> dict[str, object]:
    """Which try of which task this is, under the names that Airflow and the platform's metrics have for it."""
    fields: dict[str, object] = {}
    if run := RunIdentity.if_told():
        fields = {"dag_id": run.dag_id, "run_id": run.run_id, "task_id": run.task_id, "try_number": int(run.try_number)}
        if int(run.map_index) >= 0:
            fields["map_index"] = int(run.map_index)
    return {**fields, "model": model} if model else fields


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON."""

    def __init__(self, about: Mapping[str, object]) -> None:
        super().__init__()
        self._about = about
        # A secret is masked before its quotes are escaped: mlops.masked, which sees the line, need not know how often.
        self._masks = Masks(secrets_of(os.environ))

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z"
        traceback = self.formatException(record.exc_info) if record.exc_info and record.exc_info[0] else None
        return as_json(
            at,
            record.levelname,
            record.name,
            self._masked(record.getMessage()),
            self._about,
            None if traceback is None else self._masked(traceback),
        )

    def _masked(self, text: str) -> str:
        return self._masks.masked(text.encode(errors="surrogateescape")).decode(errors="surrogateescape")
