"""Keeps a server that all processes of a test run share: `python keeper.py RUN FOLDER SIGNAL COMMAND...`.

The run holds a lock on RUN/lock, which the kernel takes from it however it ends. Then the server gets the signal, and
FOLDER is removed. It stays, for its log, where the server has ended before or the keeper is told to end. Whoever gets a
lock on RUN/kept knows that none is left.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

run, folder, ending, *command = sys.argv[1:]
with Path(run, "kept").open() as kept, Path(run, "lock").open() as held:
    fcntl.flock(kept, fcntl.LOCK_SH)
    signal.signal(signal.SIGCHLD, lambda *_: sys.exit("the server has ended"))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("the server did not become ready"))
    process = subprocess.Popen(command, process_group=0)
    try:
        fcntl.lockf(held, fcntl.LOCK_SH)
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, int(ending))  # one that has ended may have left others of its group
        process.wait()
    shutil.rmtree(folder)  # of one that has not ended by itself: the log of such a one is still to be read
