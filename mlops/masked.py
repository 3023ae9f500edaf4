"""`python -m mlops.masked COMMAND ...`: runs a task's command, whose secrets are `***` in all that it writes.

The log of a task's pod is read by people who may see its DAG, and not what it has in its environment. The operator says
which entries of the environment are secret (MAESTRO_SECRETS). Their values are known in the pod alone: to mask them
anywhere else, somebody would have to be let read Secrets.

It stays the container's first process and passes on what the command writes to stdout and stderr, as it comes, or,
where logs are JSON (MAESTRO_LOG_FORMAT), a line at a time, each of them an object. The
command is a child, with the same environment; its exit code is that of the container.
"""

from __future__ import annotations

import os
import selectors
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import NoReturn

from mlops.config import LogSettings
from mlops.log_lines import JSON_FORMAT, as_json, is_json
from mlops.logs import about
from mlops.masking import Masks, secrets_of
from mlops.result import TERMINATION_LOG

_OURS = ["python", "-m", "mlops"]
_PIECE = 1 << 16  # bytes


def main(command: Sequence[str]) -> int:
    """Runs the command and returns its exit code. Without a secret it takes this process's place."""
    masks, whole_lines = Masks(secrets_of(os.environ)), LogSettings.from_environment().format == JSON_FORMAT
    if not masks and not whole_lines:
        _become(command)
    ours, theirs = zip(os.pipe(), os.pipe(), strict=True)
    child = os.fork()
    if child == 0:
        for end, stream in zip(theirs, (1, 2), strict=True):
            os.dup2(end, stream)
        os.closerange(3, max(*ours, *theirs) + 1)
        _become(command)
    for end in theirs:
        os.close(end)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda caught, _: _pass_on(child, caught))
    writers = {
        source: _Writer(target, masks, about(None) if whole_lines else None)
        for source, target in zip(ours, (1, 2), strict=True)
    }
    code = _wait(child, writers)
    _mask_file(os.environ.get("MAESTRO_RESULT_PATH", TERMINATION_LOG), masks)
    return code


def _become(command: Sequence[str]) -> NoReturn:
    """A command of the platform is run right here, as another interpreter would take as long to start as some work."""
    if list(command[:3]) == _OURS:
        from mlops.cli import main as run

        sys.exit(run(command[3:]))
    try:
        os.execvp(command[0], list(command))  # noqa: S606 - the command is what the pod is for
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


def _wait(child: int, writers: Mapping[int, _Writer]) -> int:
    """Passes on what comes from each stream until the child has ended, and returns its exit code."""
    ended = os.pidfd_open(child)
    with selectors.DefaultSelector() as selector:
        for source in (*writers, ended):
            os.set_blocking(source, False)
            selector.register(source, selectors.EVENT_READ)
        running = True
        while running:
            ready = {key.fd for key, _ in selector.select()}
            running = ended not in ready
            # Of one that has ended, all that is left. What it has started, and left behind, ends with this process.
            for source in writers if not running else ready & writers.keys():
                if _drain(source, writers[source]) and running:
                    selector.unregister(source)
    for writer in writers.values():
        writer.end()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code if code >= 0 else 128 - code  # as a shell says that a signal ended it, and the runtime too


class _Writer:
    """Writes what it is sent, masked, but for an end that may become a secret.

    about: where each line is to be JSON, which task it is of; those that are none, as of a library or of an interpreter
    that dies, become it.
    """

    def __init__(self, target: int, masks: Masks, about: Mapping[str, object] | None) -> None:
        self._target, self._masks, self._about = target, masks, about
        self._held = self._line = b""

    def send(self, piece: bytes) -> None:
        out, self._held = self._masks.decided(self._held + piece)
        self._write(out)

    def end(self) -> None:
        self._write(self._masks.masked(self._held))
        if self._line:
            _write(self._target, self._as_json(self._line))

    def _write(self, data: bytes) -> None:
        if self._about is None:
            _write(self._target, data)
            return
        *lines, self._line = (self._line + data).split(b"\n")
        if len(self._line) > _PIECE:
            lines, self._line = [*lines, self._line], b""
        _write(self._target, b"".join(map(self._as_json, lines)))

    def _as_json(self, line: bytes) -> bytes:
        if is_json(line) or not line.strip():
            return line + b"\n" if line else b""
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        text, stream = line.decode(errors="replace").rstrip("\r"), {1: "stdout", 2: "stderr"}[self._target]
        return as_json(now, "INFO", stream, text, self._about or {}).encode() + b"\n"


def _drain(source: int, writer: _Writer) -> bool:
    """Passes on what is there. Returns whether nothing will come any more."""
    with suppress(BlockingIOError):
        while piece := os.read(source, _PIECE):
            writer.send(piece)
        return True
    return False


def _write(target: int, data: bytes) -> None:
    while data:
        data = data[os.write(target, data) :]


def _pass_on(child: int, number: int) -> None:
    """To a command that has a handler for it. As a container's first process it would not be ended by one without."""
    with open(f"/proc/{child}/status") as status:  # noqa: PTH123 - to import pathlib takes longer than light work
        caught = next(int(line.split()[1], 16) for line in status if line.startswith("SigCgt:"))
    if caught & 1 << number - 1:
        os.kill(child, number)


def _mask_file(path: str, masks: Masks) -> None:
    """What a command hands back becomes its task's result, or the cause of its failure, for the same people."""
    with suppress(OSError), open(path, "r+b") as file:  # noqa: PTH123
        said = file.read()
        if (masked := masks.masked(said)) != said:
            file.seek(0)
            file.write(masked)
            file.truncate()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
