"""The tests' own way to change the environment: no thread that reads it crashes, and programs see what is set."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

# Two threads ask as native code does, without Python's lock, while names come and go.
READ = """
import ctypes, os, subprocess, threading, time
from tests.environment import hold_still
hold_still()
library = ctypes.CDLL(None)
library.getenv.restype = ctypes.c_char_p
def read():
    while True:
        library.getenv(b"NOT_THERE")
for _ in range(2):
    threading.Thread(target=read, daemon=True).start()
until = time.monotonic() + 2
while time.monotonic() < until:
    for number in range(200):
        os.environ[f"X{number}"] = "y" * number
    for number in range(200):
        del os.environ[f"X{number}"]
print("alive")
"""


def test_threads_that_read_while_it_changes_do_not_crash():
    """With the C library's own table this ends by a segmentation fault."""
    done = subprocess.run([sys.executable, "-c", READ], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


def test_programs_see_what_is_set_and_not_what_is_gone(monkeypatch):
    def seen() -> str:
        return subprocess.run(["sh", "-c", "echo ${A-none}"], capture_output=True, text=True, check=True).stdout.strip()

    monkeypatch.setenv("A", "1")
    assert seen() == "1"
    monkeypatch.setenv("A", "=ü")
    assert seen() == "=ü" == os.environ["A"]
    monkeypatch.delenv("A")
    assert seen() == "none"


def test_what_cannot_be_a_name_is_refused():
    with pytest.raises(ValueError, match="cannot be set"):
        os.environ["A=B"] = "1"
