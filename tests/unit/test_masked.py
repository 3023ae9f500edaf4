"""What a task's command writes, as its pod's log has it: with real processes, cut into any pieces."""

import base64
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.masking import MASK, SECRETS, Masks
from tests.conftest import ROOT, eventually

SECRET = 's3cr\'et "with"/any+thing ä'
TOKEN = "tokentokentoken-2"
ENVIRONMENT = {
    SECRETS: "PASSWORD,TOKEN,SHORT,UNSET",
    "PASSWORD": SECRET,
    "TOKEN": TOKEN,
    "SHORT": "abc",
    "PLAIN": "plain",
}


def started(*command: str, result: Path | None = None, **streams: object) -> "subprocess.Popen[bytes]":
    told = {**os.environ, "PYTHONPATH": str(ROOT), **ENVIRONMENT, "MAESTRO_RESULT_PATH": str(result or "/dev/null")}
    return subprocess.Popen([sys.executable, "-m", "mlops.masked", *command], env=told, **streams)


def run(*command: str, result: Path | None = None) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    process = started(*command, result=result, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=120)
    return process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize(
    "command",
    [
        ("env",),
        ("sh", "-c", "env >&2"),
        (sys.executable, "-c", "import os; print(os.environ)"),
        (sys.executable, "-c", "import os, json; print(json.dumps(dict(os.environ)))"),
        (sys.executable, "-c", "import subprocess; subprocess.run('env')"),
        (sys.executable, "-c", "import os, logging; logging.error('%s', dict(os.environ))"),
    ],
)
def test_who_prints_the_environment_shows_no_secret_of_it(command: tuple[str, ...]) -> None:
    code, out, err = run(*command)
    assert code == 0
    said = out + err
    assert "PLAIN" in said and "plain" in said
    assert said.count("***") == 2
    for secret in (SECRET, TOKEN, json.dumps(SECRET)[1:-1], repr(SECRET)[1:-1]):
        assert secret not in said


def test_a_secret_is_found_as_it_looks_in_an_address_and_in_base64() -> None:
    forms = (f"http://u:{quote(SECRET, safe='')}@host", base64.b64encode(SECRET.encode()).decode())
    _, out, _ = run(sys.executable, "-c", f"print({forms!r})")
    assert out == "('http://u:***@host', '***')\n"


@pytest.mark.parametrize("user", ["", "u", "us", "use", "writer:"])
def test_a_secret_is_found_in_base64_wherever_it_stands_in_what_was_coded(user: str) -> None:
    """As in a header that says who one is."""
    for secret in (SECRET, TOKEN):
        coded = base64.b64encode(f"{user}{secret}@{user}".encode())
        masked = Masks([secret]).masked(coded)
        assert MASK in masked
        assert len(masked) - len(MASK) <= len(coded) - len(secret.encode()) * 4 // 3 + 2


def test_a_command_of_the_platform_that_fails_hands_its_cause_back_without_a_secret(tmp_path: Path) -> None:
    result = tmp_path / "result"
    code, _, err = run("python", "-m", "mlops", "datasets", "propose", f"/{TOKEN}", result=result)
    assert code != 0
    assert TOKEN not in err + result.read_text()
    assert "***" in result.read_text()


def test_what_a_command_hands_back_is_masked_and_otherwise_as_it_was(tmp_path: Path) -> None:
    result = tmp_path / "result"
    for said, left in ((f'{{"a": "{TOKEN}", "b": 1}}', '{"a": "***", "b": 1}'), ('{"b": 1}', '{"b": 1}')):
        run("sh", "-c", f"echo '{said}' >{result}", result=result)
        assert result.read_text() == f"{left}\n"


@pytest.mark.parametrize(("script", "code"), [("exit 3", 3), ("kill -9 $$", 137), ("true", 0)])
def test_the_exit_code_is_that_of_the_command(script: str, code: int) -> None:
    assert run("sh", "-c", script)[0] == code


def test_a_program_that_is_not_there_is_named() -> None:
    code, _, err = run("/no/such/program")
    assert (code, err) == (1, "/no/such/program: No such file or directory\n")


def test_all_of_a_long_output_arrives_on_the_stream_that_it_was_written_to() -> None:
    code, out, err = run("sh", "-c", "seq 200000; seq 5 >&2")
    assert (code, err) == (0, "1\n2\n3\n4\n5\n")
    assert out == "".join(f"{number}\n" for number in range(1, 200_001))


def test_what_is_written_is_there_while_the_command_still_runs(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file, started("sh", "-c", "printf 'asks? '; sleep 600", stdout=file) as process:
        try:
            eventually(lambda: log.read_text() == "asks? ", 60)
        finally:
            process.kill()


def test_what_a_command_leaves_running_does_not_keep_the_pod() -> None:
    code, out, _ = run("sh", "-c", "sleep 600 & echo $!")
    os.kill(int(out), signal.SIGKILL)
    assert code == 0


def test_a_command_that_waits_for_sigterm_gets_it_and_one_that_does_not_goes_on(tmp_path: Path) -> None:
    """As if it were the container's first process, which a signal without a handler does not end."""
    log, go = tmp_path / "log", tmp_path / "go"
    for trap, end in (("trap 'echo told; exit 7' TERM;", 7), ("", 0)):
        script = f"{trap} echo ready; while ! test -e {go}; do sleep 0.05; done; echo went"
        with log.open("wb") as file, started("sh", "-c", script, stdout=file) as process:
            eventually(lambda: "ready" in log.read_text(), 60)
            process.terminate()
            if not trap:
                go.touch()
            assert process.wait(240) == end
        assert ("told" if trap else "went") in log.read_text()


secrets = st.lists(st.text(st.sampled_from("ab\n"), min_size=5, max_size=8), min_size=1, max_size=3)
pieces = st.lists(st.text(st.sampled_from("ab\nx"), max_size=12).map(str.encode), max_size=12)


@given(secrets, pieces)
def test_wherever_a_text_is_cut_it_is_masked_as_if_it_were_whole(told: list[str], cut: list[bytes]) -> None:
    masks = Masks(told)
    out, held = b"", b""
    for piece in cut:
        some, held = masks.decided(held + piece)
        out += some
    out += masks.masked(held)
    assert out == masks.masked(b"".join(cut))
    assert not [secret for secret in told if secret.encode() in b"".join(out.split(MASK)) and secret in out.decode()]


def test_without_a_secret_nothing_is_held_back() -> None:
    masks = Masks(["", "abc"])
    assert not masks
    assert masks.decided(b"abc") == (b"abc", b"")
