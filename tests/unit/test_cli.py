import json
import subprocess
import sys
from pathlib import Path

import pytest

from mlops import cli
from mlops.result import LIMIT, Failure, Skip

COMMANDS = {
    "datasets list": {},
    "datasets propose f.csv --toml": {"file": Path("f.csv"), "name": None, "toml": True},
    "sensor-trainer check-mlflow": {"patience": 90.0},
    "sensor-trainer check-trainer": {"patience": 90.0},
    "sensor-trainer trigger --minimum-new-readings None": {"minimum_new_readings": None},
    "sensor-trainer monitor --job-id j": {"job_id": "j", "patience": 1800.0},
    "sensor-trainer collect": {"patience": 90.0},
    "sensor-trainer replay --dataset s --hours 6": {"hours": 6.0},
    "health runs --window-hours 6": {"window_hours": 6.0, "patience": 120.0, "timeout": 10.0},
    "health failures --patience 60": {"patience": 60.0},
    "health components": {"window_hours": 24.0, "patience": 120.0, "timeout": 10.0},
    'health report --states {"check_dag_runs":null}': {"states": {"check_dag_runs": None}},
    "health alert --report-json k": {"report_json": "k"},
    "sensor-trainer serve --port 8000": {"host": "0.0.0.0", "port": 8000},
    "sensor-trainer work": {},
    "sensor-trainer migrate": {"patience": 300.0},
    "ingestion buckets --name a --name b": {"names": ["a", "b"], "expire": [], "versions": []},
    "ingestion buckets --name a --expire a:90 --versions a:30": {"expire": [("a", 90)], "versions": [("a", 30)]},
    "retention runs --days 30 --dry-run": {"days": 30, "dry_run": True},
    "ingestion users --folder f --grant tasks:write:data": {"grants": [("tasks", "write", "data")], "wait": 0},
    "ingestion load --dataset all": {"dataset": "all"},
    "ingestion download --dataset shuttle": {"dataset": "shuttle"},
    "data-quality validate --dataset shuttle --data k": {"data": "k"},
    "features preprocess --dataset shuttle --data k": {"data": "k"},
    "features engineer --dataset shuttle --data k": {"data": "k"},
    "training fit --model m --train k --data-version v": {"train": "k", "data_version": "v", "max_iter": 200},
    "training fit --model m --train k --data-version v --learning-rate 0.5 --max-iter 3": {"learning_rate": 0.5},
    "training evaluate --model m --run-id r --test k --accuracy-threshold 0.85 --f1-threshold 0.8 "
    "--baseline-margin 0.02": {"f1_threshold": 0.8, "baseline_margin": 0.02, "champion": "production"},
    "training evaluate --model m --run-id r --test k --auc-threshold 0.65 --refused fail": {"auc_threshold": 0.65},
    "training train --model m --features p --config k --data-version v": {"gpu": False, "features": "p"},
    "training train --model m --features p --config k --data-version v --gpu true": {"gpu": True},
    "features parts --model m --config= --epochs=": {"config": "", "epochs": None},
    "features parts --model m --config c.yaml --epochs 3": {"config": "c.yaml", "epochs": 3},
    "data-quality window --dataset s": {"window_hours": 24.0, "latest_fraction": 0.2},
    "data-quality schema --dataset s --data k": {"data": "k"},
    "data-quality quality --dataset s --data k --max-age 6": {"max_age": 6.0},
    "drift compare --dataset s --data k --effect-threshold 0.04": {"level": 0.01},
    "drift anomalies --dataset s --data k --excess-threshold 0.03": {"level": 0.01, "excess_threshold": 0.03},
    "drift reference --dataset s": {"fraction": 0.6},
    "data-quality report --dataset s": {},
    "registry register --model m --run-id r": {"model": "m", "run_id": "r"},
    "registry skip --run-id r": {"run_id": "r"},
    "registry list --stage production": {"stage": "production", "as_json": False},
    "registry promote --model m --version 3": {"version": "3", "who": None, "timeout": 600.0},
    "registry rollback --model m --request r": {"request": "r", "timeout": 600.0},
    "registry adopt --model m --why w": {"why": "w"},
    "registry history --json": {"model": None, "as_json": True},
    "registry compare --model m --versions 1 2": {"versions": ["1", "2"]},
    "registry export --model m --version 3 --folder f": {"folder": Path("f")},
    "registry verify": {"model": None},
    "serving deploy --model m --run-id r --timeout 5": {"run_id": "r", "timeout": 5.0},
    "serving rollback --model m": {"timeout": 600.0},
    "features materialize --days 7 --end None": {"days": 7.0, "end": None},
    "features validate-online --days 7 --sample 50": {"sample": 50, "written": None, "max_age_hours": None},
    "features build --dataset all": {"dataset": "all"},
    "features push --dataset shuttle": {"dataset": "shuttle"},
    "features apply": {"wait": 300},
    "features historical --model m --data k": {"data": "k"},
    "features validate-store": {},
    "features serve": {"port": 6566, "metrics_port": None},
    "serving seal": {},
    "serving serve": {"host": "0.0.0.0", "port": 8080},
    "serving join-labels --model m": {"labels": None, "keys": None, "within_hours": 168.0},
    "inference deliver --dataset s --marker inbox/d/_READY": {"rows": 1000, "files": 1},
    "inference ingest --model m --marker inbox/d/_READY --folder=": {"alias": "production", "folder": None},
    "inference preprocess --batch b --partition-rows 10": {"partition_rows": 10},
    "inference score --partition b/0x10": {"partition": "b/0x10"},
    "inference evaluate --batch b": {"batch": "b"},
    "inference report --batch b": {"batch": "b"},
    'notify send --text a --text b --metrics {"auc":0.7} --run-id r --model m --version 1 --page c=t/f --link n=n': {
        "text": ["a", "b"],
        "metrics": {"auc": 0.7},
        "run_id": "r",
        "model": "m",
        "version": "1",
        "page": [("c", "t/f")],
        "link": [("n", "n")],
    },
}


@pytest.mark.parametrize(("line", "expected"), COMMANDS.items(), ids=list(COMMANDS))
def test_each_command_parses_its_options(line, expected):
    options = vars(cli.parser().parse_args(line.split()))
    assert expected.items() <= options.items()


def test_every_command_is_parsed_by_the_test_above():
    known = {f"{group} {command}" for group in cli.GROUPS for command in cli.commands(group)}
    assert {" ".join(line.split()[:2]) for line in COMMANDS} == known


@pytest.mark.parametrize(("group", "command"), [(g, c) for g in cli.GROUPS for c in cli.commands(g)])
def test_each_command_has_a_help_text(group, command, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.parser().parse_args([group, command, "--help"])
    assert exit_.value.code == 0
    assert len(capsys.readouterr().out.splitlines()) > 3


def test_the_help_comes_at_once():
    """Nothing but the standard library is imported before a command runs: the rest takes the time."""
    program = """
import sys
before = set(sys.modules)
from mlops.cli import parser
parser().format_help()
print({name.partition(".")[0] for name in sys.modules.keys() - before} - sys.stdlib_module_names - {"mlops"})
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


# Each takes 2 ms or more of the 60 that a light command may take: programs of the standard library that talk to
# servers, read archives or make temporary files, and all that is not of the standard library.
HEAVY = {
    *("asyncio", "bz2", "concurrent", "email", "hashlib", "http", "importlib.metadata", "importlib.resources", "lzma"),
    *("multiprocessing", "shutil", "socket", "ssl", "subprocess", "tempfile", "unittest", "urllib.request", "xml"),
}


METADATA = {"email", "importlib.metadata", "importlib.resources", "socket", "shutil", "tempfile", "bz2", "lzma"}


@pytest.mark.parametrize(
    ("line", "group"),
    [("datasets list", "datasets"), ("notify send --text a", "notify"), ("datasets --help", "datasets")],
)
def test_a_light_command_imports_little(line, group):
    """What is imported is nearly all that it takes; seconds would be those of a busy machine."""
    program = """
import contextlib, io, json, sys
before = set(sys.modules)
from mlops.cli import main
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
    main(sys.argv[1:])
print(json.dumps(sorted(sys.modules.keys() - before)))
"""
    found = subprocess.run([sys.executable, "-c", program, *line.split()], capture_output=True, text=True, check=True)
    modules = set(json.loads(found.stdout.splitlines()[-1]))
    assert {name.partition(".")[0] for name in modules} - sys.stdlib_module_names == {"mlops"}
    listed = METADATA if line == "datasets list" else set()  # who lists what packages declare asks for them
    assert modules & (HEAVY - listed) == set()
    assert {name for name in modules if name.endswith(".commands")} == {cli.GROUPS[group]}
    assert not {name for name in modules if name.startswith("mlops.stores")}


@pytest.mark.parametrize("group", cli.GROUPS)
def test_the_parser_of_one_group_is_that_of_all(group, capsys):
    for name in cli.commands(group):
        told = []
        for parser in (cli.parser(), cli.parser(group)):
            with pytest.raises(SystemExit):
                parser.parse_args([group, name, "--help"])
            told.append(capsys.readouterr().out)
        assert told[0] == told[1]


def test_a_help_text_is_as_wide_as_the_terminal(monkeypatch, capsys):
    for columns in ("110", "60", "", "no number"):
        monkeypatch.setenv("COLUMNS", columns)
        with pytest.raises(SystemExit):
            cli.main(["--help"])
        widest = max(len(line) for line in capsys.readouterr().out.splitlines())
        width = int(columns) if columns.isdecimal() else 80
        assert width - 20 < widest <= width


def ended(monkeypatch: pytest.MonkeyPatch, tmp_path, run) -> tuple[int, str]:
    """(exit code, termination message) of a command line whose one command is `run`."""
    monkeypatch.setenv("MAESTRO_RESULT_PATH", str(tmp_path / "message"))
    module = type(sys)("test commands")
    module.__doc__ = "Test commands."
    vars(module)["COMMANDS"] = {"run": (run, lambda parser: None)}
    monkeypatch.setitem(sys.modules, "test_commands", module)
    monkeypatch.setattr(cli, "GROUPS", {"test": "test_commands"})
    code = cli.main(["test", "run"])
    return code, (tmp_path / "message").read_text()


def test_a_result_is_handed_back_with_exit_code_0(monkeypatch, tmp_path):
    def run():
        """Succeeds."""
        return {"rows": 3}

    assert ended(monkeypatch, tmp_path, run) == (0, '{"rows": 3}')


def test_a_failure_hands_its_cause_back_with_exit_code_1(monkeypatch, tmp_path):
    def run():
        """Fails."""
        raise Failure("bucket 'data' not found: create it")

    assert ended(monkeypatch, tmp_path, run) == (1, "bucket 'data' not found: create it")


def test_an_unexpected_error_hands_its_type_and_text_back_and_logs_where_it_was(monkeypatch, tmp_path, caplog):
    def run():
        """Breaks."""
        return {"share": 1 / 0}

    assert ended(monkeypatch, tmp_path, run) == (1, "ZeroDivisionError: division by zero")
    assert 'return {"share": 1 / 0}' in caplog.text


def test_a_skip_hands_its_reason_back_with_exit_code_99(monkeypatch, tmp_path):
    def run():
        """Has nothing to do."""
        raise Skip("too few rows: 3 ä" + "x" * 5000)

    code, message = ended(monkeypatch, tmp_path, run)
    assert code == 99
    assert json.loads(message)["skipped"].startswith("too few rows: 3 ä")
    assert len(message.encode()) <= LIMIT


def test_a_result_that_is_too_large_fails_with_the_remedy(monkeypatch, tmp_path):
    def run():
        """Hands a table back."""
        return {"rows": 3, "table": list(range(2000))}

    code, message = ended(monkeypatch, tmp_path, run)
    assert code == 1
    assert "largest field: table" in message
    assert "object store" in message


def test_a_cause_longer_than_a_termination_message_is_cut(monkeypatch, tmp_path):
    def run():
        """Fails at length."""
        raise Failure("cause " + "x" * 10_000 + " remedy")

    code, message = ended(monkeypatch, tmp_path, run)
    assert code == 1
    assert len(message.encode()) <= LIMIT
    assert message.startswith("cause")
    assert message.endswith("remedy")


def test_a_pod_without_its_settings_says_which_are_missing(environment, monkeypatch, tmp_path):
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    assert cli.main(["ingestion", "buckets", "--name", "a"]) == 1
    message = (tmp_path / "termination-log").read_text()
    assert "AWS_ENDPOINT_URL_S3 (from global.services.minio" in message


WRONG_GRANT = "ingestion users --folder f --grant tasks:own:data"


@pytest.mark.parametrize("line", ["", "training", "training tune", "notify send", WRONG_GRANT])
def test_a_wrong_command_line_ends_with_exit_code_2(line, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(line.split())
    assert exit_.value.code == 2
    assert "error:" in capsys.readouterr().err
