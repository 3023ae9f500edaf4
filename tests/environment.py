"""The environment of this process, which tests change while threads of native libraries read it.

glibc moves the table of the environment when a variable is added, and a thread that reads it at that moment ends the
process (polars asks for a variable again and again as soon as it has read from S3). Here the table is one of ours that
never moves and never shrinks: each of its entries is at all times a whole one.
"""

from __future__ import annotations

import ctypes
import os

_SIZE = 1 << 16  # entries, of which each name takes one
_NOTHING = b"MAESTRO_TESTS_NOTHING="  # in the place of a variable that is gone


class _Table:
    def __init__(self) -> None:
        self._entries = (ctypes.c_char_p * _SIZE)()
        self._places: dict[bytes, int] = {}
        self._kept: list[bytes] = []  # the texts: a thread may read an old one for a while
        for name, value in os.environb.items():
            self.put(name, value)
        # The C library's own name for the table.
        ctypes.c_void_p.in_dll(ctypes.CDLL(None), "environ").value = ctypes.addressof(self._entries)

    def put(self, name: bytes | str, value: bytes | str) -> None:
        name, value = os.fsencode(name), os.fsencode(value)
        if not name or b"=" in name or b"\0" in name + value:
            raise ValueError(f"{name!r} cannot be set to {value!r}")
        self._write(self._places.setdefault(name, len(self._places)), name + b"=" + value)

    def unset(self, name: bytes | str) -> None:
        place = self._places.get(os.fsencode(name))
        if place is not None:
            self._write(place, _NOTHING)

    def _write(self, place: int, text: bytes) -> None:
        if place >= _SIZE - 1:
            raise MemoryError("the tests use more names of variables than there are places for")
        self._kept.append(text)
        self._entries[place] = text


def hold_still() -> None:
    """Has os.environ change the table that stays, from now on and in this process."""
    table = _Table()
    os.putenv, os.unsetenv = table.put, table.unset  # what os.environ calls
