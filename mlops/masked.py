"""`python -m mlops.masked COMMAND ...`: runs a task's command, whose secrets are `***` in all that it writes.

The log of a task's pod is read by people who may see its DAG, and not what it has in its environment. The operator says
which entries of the environment are secret (MAESTRO_SECRETS). Their values are known in the pod alone: to mask them
anywhere else, somebody would have to be let read Secrets.

It stays the container's first process and passes on what the command writes to stdout and stderr, as it comes. The
command is a child, with the same environment; its exit code is that of the container.
"""

from __future__ import annotations

import os
import selectors
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from mlops.masking import Masks, secrets_of
from mlops.result import TERMINATION_LOG

_OURS = ["python", "-m", "mlops"]
_PIECE = 1 << 16  # bytes


def main(command: Sequence[str]) -> int:
    """Runs the command and returns its exit code. Without a secret it takes this process's place."""
    masks = Masks(secrets_of(os.environ))
    if not masks:
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
    code = _wait(child, dict(zip(ours, (1, 2), strict=True)), masks)
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


def _wait(child: int, streams: dict[int, int], masks: Masks) -> int:
    """Passes on what comes from each stream until the child has ended, and returns its exit code."""
    writers = {source: _Writer(target, masks) for source, target in streams.items()}
    ended = os.pidfd_open(child)
    with selectors.DefaultSelector() as selector:
        for source in (*streams, ended):
            os.set_blocking(source, False)
            selector.register(source, selectors.EVENT_READ)
        running = True
        while running:
            ready = {key.fd for key, _ in selector.select()}
            running = ended not in ready
            # Of one that has ended, all that is left. What it has started, and left behind, ends with this process.
            for source in streams if not running else ready & streams.keys():
                if _drain(source, writers[source]) and running:
                    selector.unregister(source)
    for writer in writers.values():
        writer.end()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code if code >= 0 else 128 - code  # as a shell says that a signal ended it, and the runtime too


class _Writer:
    """Writes what it is sent, masked, but for an end that may become a secret."""

    def __init__(self, target: int, masks: Masks) -> None:
        self._target, self._masks, self._held = target, masks, b""

    def send(self, piece: bytes) -> None:
        out, self._held = self._masks.decided(self._held + piece)
        _write(self._target, out)

    def end(self) -> None:
        _write(self._target, self._masks.masked(self._held))


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
