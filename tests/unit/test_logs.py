"""The log of a task's pod as JSON: each line an object that says which task it is of, and no secret."""

import json
import logging
import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.log_lines import as_json, is_json, readable
from mlops.logs import JsonFormatter
from mlops.masking import SECRETS
from tests.conftest import ROOT

SECRET = 's3cr\'et "with"/any+thing ä\\'
TASK = {"dag_id": "train", "run_id": "manual__1", "task_id": "fit", "try_number": 2}
POD = {
    "MAESTRO_LOG_FORMAT": "json",
    "MAESTRO_DAG_ID": "train",
    "MAESTRO_RUN_ID": "manual__1",
    "MAESTRO_TASK_ID": "fit",
    "MAESTRO_TRY_NUMBER": "2",
    "MAESTRO_MAP_INDEX": "-1",
    "MAESTRO_RESULT_PATH": "/dev/null",
}


def run(*command: str, **told: str) -> tuple[int, list[dict[str, Any]]]:
    """Exit code, and all lines that the pod of a task writes with this command."""
    environment = {**os.environ, "PYTHONPATH": os.environ.get("PYTHONPATH", str(ROOT)), **POD, **told}
    line = [sys.executable, "-m", "mlops.masked", *command]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120)
    return done.returncode, [json.loads(line) for line in (done.stdout + done.stderr).splitlines()]


def test_what_a_command_logs_says_which_task_it_is_of_and_of_which_model() -> None:
    code, lines = run("python", "-m", "mlops", "notify", "send", "--text", "done\nwell", "--model", "ctr_model")
    assert code == 0
    (line,) = lines
    assert line.items() >= {**TASK, "model": "ctr_model", "level": "INFO", "logger": "mlops.notify.channels"}.items()
    assert line["message"].startswith("no channel is set up for this message:\ndone\nwell")
    assert line["time"].endswith("Z")


def test_a_mapped_task_says_which_one_it_is() -> None:
    _, (line,) = run("python", "-m", "mlops", "notify", "send", "--text", "done", MAESTRO_MAP_INDEX="3")
    assert line["map_index"] == 3
    assert "model" not in line


def test_a_failure_has_its_traceback_in_the_same_line() -> None:
    code, lines = run("python", "-m", "mlops", "features", "engineer", "--dataset=shuttle", "--data=x")
    assert code == 1
    errors = [line for line in lines if line["level"] == "ERROR"]
    assert errors
    crash = "from mlops import logs; logs.begin('m')\ntry: 1/0\nexcept ZeroDivisionError: logs.logging.exception('no')"
    _, (line,) = run(sys.executable, "-c", crash)
    assert (line["message"], line["model"]) == ("no", "m")
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ZeroDivisionError: division by zero")


@pytest.mark.parametrize(
    "program",
    [
        "import sys; print('a b'); print('', end='\\n'); sys.stdout.flush(); sys.exit('c')",
        "import os; os.write(1, b'a b\\n'); os.write(2, b'c')",
        "import sys; sys.stdout.write('a b\\r\\n'); sys.stdout.flush(); sys.stderr.write('c\\n')",
    ],
)
def test_what_something_else_writes_is_json_too(program: str) -> None:
    _, lines = run(sys.executable, "-c", program)
    assert [(line["logger"], line["message"]) for line in lines] == [("stdout", "a b"), ("stderr", "c")]
    assert all(line.items() >= TASK.items() for line in lines)


def test_wrong_options_and_a_broken_interpreter_are_said_in_json() -> None:
    code, lines = run("python", "-m", "mlops", "notify", "send")
    assert code == 2
    assert "the following arguments are required: --text" in lines[-1]["message"]
    _, lines = run(sys.executable, "-c", "import warnings; warnings.warn('old'); raise KeyError('k')")
    assert [line["message"] for line in lines][-1] == "KeyError: 'k'"


def test_warnings_of_libraries_are_records() -> None:
    program = "from mlops import logs; logs.begin(None); import warnings; warnings.warn('old')"
    _, (line,) = run(sys.executable, "-c", program)
    assert (line["level"], line["logger"]) == ("WARNING", "py.warnings")
    assert "UserWarning: old" in line["message"]


LOGGING = "import json, logging, os\nfrom mlops import logs\nlogs.begin(None)\n"


@pytest.mark.parametrize(
    "program",
    [
        "import os; print(os.environ['PASSWORD'])",
        LOGGING + "logging.error(os.environ['PASSWORD'])",
        LOGGING + "logging.error(json.dumps(dict(os.environ)))",
        LOGGING + "logging.error(dict(os.environ))",
        LOGGING + "try: raise KeyError(os.environ['PASSWORD'])\nexcept KeyError: logging.exception('no')",
    ],
)
def test_a_secret_is_masked_however_often_it_is_quoted(program: str) -> None:
    told = {SECRETS: "PASSWORD", "PASSWORD": SECRET}
    _, lines = run(sys.executable, "-c", program, **told)
    said = json.dumps(lines, ensure_ascii=False)
    assert "***" in said
    assert "s3cr" not in said


def test_a_line_longer_than_the_memory_that_is_given_to_one_is_cut() -> None:
    _, lines = run(sys.executable, "-c", "import sys; sys.stdout.write('x' * 300_000)")
    assert len(lines) > 1
    assert "".join(line["message"] for line in lines) == "x" * 300_000


def test_as_text_a_log_is_as_it_was() -> None:
    told = {**os.environ, **POD, "MAESTRO_LOG_FORMAT": "text", "PYTHONPATH": os.environ.get("PYTHONPATH", str(ROOT))}
    line = [sys.executable, "-m", "mlops.masked", "python", "-m", "mlops", "notify", "send", "--text", "done"]
    done = subprocess.run(line, env=told, capture_output=True, text=True, timeout=120)
    assert " INFO mlops.notify.channels: no channel is set up for this message:\ndone\n" in done.stderr


@given(st.text(), st.none() | st.text(min_size=1), st.sampled_from(["mlops.cli", "stdout"]))
def test_people_read_what_was_logged(message: str, exception: str | None, logger: str) -> None:
    line = as_json("2026-01-01T00:00:00.000Z", "INFO", logger, message, TASK, exception)
    assert "\n" not in line
    assert is_json(line.encode())
    head = "" if logger == "stdout" else f"2026-01-01T00:00:00.000Z INFO {logger}: "
    assert readable(line) == head + message + (f"\n{exception}" if exception is not None else "")
    assert readable(line[: len(line) // 2]) == line[: len(line) // 2], "of one that was cut nothing is lost"


@given(st.text())
def test_other_lines_are_left_as_they_are(text: str) -> None:
    assert readable(text) == text
    assert readable('{"time": "now"}') == '{"time": "now"}'


def test_arguments_of_a_record_are_in_its_message() -> None:
    record = logging.LogRecord("mlops.x", logging.WARNING, "f", 1, "%d of %s", (1, "ü"), None)
    line = JsonFormatter({"dag_id": "d"}).format(record)
    assert line.isascii()
    assert json.loads(line)["message"] == "1 of ü"
