"""`make models`, `make promote`, `make rollback` and `make export`: the registry's commands, run in the cluster."""

from __future__ import annotations

import getpass
import os
import socket
import sys
import uuid
from collections.abc import Mapping

from infrastructure.commands import SECONDS, run
from infrastructure.release import NotInstalled
from mlops.result import Failure

# The rest of the Job's time is its start and the way back, where a version does not come up.
_ROLLOUT = SECONDS // 2


def command(verb: str, environment: Mapping[str, str], who: str) -> list[str]:
    """The words of a command of the group `registry`. Raises Failure where make was not told which model or version.

    environment: MODEL, VERSION and WHY, as make hands them on.
    """
    if verb == "list":
        return [verb]
    needed = ("MODEL",) if verb == "rollback" else ("MODEL", "VERSION")
    if missing := [name for name in needed if not environment.get(name)]:
        raise Failure(f"make {verb} needs {' and '.join(missing)}: make {verb} {' '.join(f'{n}=...' for n in needed)}")
    words = [verb, *(f"--{name.lower()}={environment[name]}" for name in needed)]
    if verb == "export":
        return words
    words += [f"--who={who}", f"--timeout={_ROLLOUT}"]
    if environment.get("WHY"):
        words.append(f"--why={environment['WHY']}")
    # The Job starts another pod where one was lost, which is to do no more than what that one left undone.
    return [*words, f"--request={uuid.uuid4().hex}"]


def main() -> int:
    try:
        words = command(sys.argv[1], os.environ, f"{getpass.getuser()}@{socket.gethostname()}")
        print(run("registry", *words).log, end="")
    except (Failure, NotInstalled, TimeoutError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
