"""Progress as the user sees it: what is being done, how long it took, and which log to read when it failed."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from config import LOGS, STATE


class Failure(Exception):
    """A step cannot go on. The message says what is wrong and what to do."""


@contextmanager
def step(title: str, usually: str = "") -> Iterator[None]:
    """Print the title, with the time that a long step usually takes, then the time taken or the word `failed`."""
    print(f"[cluster] {title}{usually and f' (usually {usually})'} ... ", end="", flush=True)
    started = time.monotonic()
    try:
        yield
    except BaseException:
        print(f"failed after {time.monotonic() - started:.1f} s", flush=True)
        raise
    print(f"{time.monotonic() - started:.1f} s", flush=True)


@contextmanager
def alone() -> Iterator[None]:
    """Of two commands that change the node the second waits. No process started meanwhile takes the lock over."""
    try:
        STATE.mkdir(parents=True, exist_ok=True)
        lock = (STATE / "lock").open("w")
    except PermissionError:
        raise Failure(
            f"this user cannot write to {STATE}: run it with sudo, or set MAESTRO_LOCAL_STATE to a folder of the user's"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("[cluster] another run is at work: waiting", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def logged(
    log: str,
    command: Sequence[str | Path],
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: int | TextIO = subprocess.DEVNULL,
) -> None:
    """Run a command with its output appended to a log; raise Failure with the log's last lines when it fails."""
    LOGS.mkdir(parents=True, exist_ok=True)
    path = LOGS / log
    with path.open("ab") as output:
        output.write(f"$ {' '.join(map(str, command))}\n".encode())
        output.flush()
        code = subprocess.run(
            list(map(str, command)), stdin=stdin, stdout=output, stderr=output, env=env, cwd=cwd
        ).returncode
    if code:
        tail = "\n".join("    " + line for line in path.read_text(errors="replace").splitlines()[-15:])
        raise Failure(f"{command[0]} ended with {code}; the log is {path} and ends with:\n{tail}")


def wait_until(condition: Callable[[], object], seconds: float, what: str, log: Path | None = None) -> None:
    """Wait until the condition holds; raise Failure naming what was waited for after the given seconds."""
    if not holds_within(condition, seconds):
        hint = f"; read {log}" if log else ""
        raise Failure(f"{what} did not happen within {seconds:.0f} s{hint}")


def holds_within(condition: Callable[[], object], seconds: float) -> bool:
    """Wait until the condition holds, for the given seconds at most; returns whether it does."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def main(run: Callable[[], int | None]) -> None:
    """Run a command of the command line; a Failure is its message, not a traceback."""
    try:
        sys.exit(run())
    except Failure as failure:
        print(f"error: {failure}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\ninterrupted: run the same command again to go on", file=sys.stderr)
        sys.exit(130)
