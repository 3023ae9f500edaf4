"""A file of text as it lies somewhere (packed, encoded, with lines that are none of its rows) as plain UTF-8."""

import bz2
import codecs
import gzip
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow

from mlops.result import Refused

_CHUNK = 1 << 20  # bytes that are held at a time
_MARKS: dict[bytes, Callable[[Path], Any]] = {  # the first bytes of a file say how it is packed, whatever its name says
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
    b"\x28\xb5\x2f\xfd": lambda path: pyarrow.input_stream(str(path), compression="zstd"),
}
_ZIP = b"PK\x03\x04"
_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_GUESSES = ("cp1252", "latin-1")
_DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, pyarrow.ArrowInvalid)


def unpack(path: Path, encoding: str, skip_last: int, target: Path) -> None:
    """Writes the text of a file as UTF-8 without its byte order mark and its last lines, a megabyte at a time.

    Raises Refused where the file is damaged, empty, of another encoding, or holds a NUL, with the line.
    """
    try:
        with _opened(path) as packed, target.open("wb") as plain:
            size = 0
            for text in _decoded(packed, encoding):
                size += plain.write(text.encode())
    except _DAMAGED as error:
        raise Refused(f"is damaged or cut off ({error}): upload a whole file") from error
    if not size:
        raise Refused("is empty: upload a whole file")
    if skip_last:
        _cut_last_lines(target, skip_last)


def head(plain: Path, size: int = 1 << 16) -> str:
    """The first part of a plain file."""
    with plain.open("rb") as file:
        return file.read(size).decode(errors="ignore")


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    with path.open("rb") as file:
        start = file.read(8)
    if start.startswith(_ZIP):
        with zipfile.ZipFile(path) as archive:
            members = [
                name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX")
            ]
            if len(members) != 1:
                raise Refused(
                    f"is a zip archive of {len(members)} files ({', '.join(members[:5])}): upload the files one by "
                    "one, and declare several with a pattern, such as file='parts/*.csv'"
                )
            with archive.open(members[0]) as member:
                yield member
        return
    with next((_MARKS[mark] for mark in _MARKS if start.startswith(mark)), _unpacked)(path) as content:
        yield content


def _unpacked(path: Path) -> IO[bytes]:
    return path.open("rb")


def _decoded(content: IO[bytes], encoding: str) -> Iterator[str]:
    """Text in parts. Raises Refused at the first byte that is none of the encoding."""
    try:
        decoder = codecs.getincrementaldecoder("utf-8-sig" if _is_utf8(encoding) else encoding)()
    except LookupError as error:
        raise Refused(f"is declared with encoding={encoding!r}, which Python does not know") from error
    lines, first = 1, True
    while True:
        part = content.read(_CHUNK)
        if first and _is_utf8(encoding) and part.startswith(_WIDE):
            raise Refused("begins with the mark of UTF-16: declare encoding='utf-16' in its source")
        first = False
        try:
            text = decoder.decode(part, final=not part)
        except UnicodeError as error:
            if not isinstance(error, UnicodeDecodeError):
                raise Refused(f"is not {encoding} ({error}): declare the encoding that it was written in") from error
            if b"\0" in part:
                raise Refused(_with_nul(lines + part[: part.index(b"\0")].count(b"\n"))) from error
            raise Refused(_wrong_encoding(error, encoding, lines)) from error
        if "\0" in text:
            raise Refused(_with_nul(lines + text[: text.index("\0")].count("\n")))
        lines += text.count("\n")
        yield text
        if not part:
            return


def _with_nul(line: int) -> str:
    return (
        f"holds a NUL (a byte 0) in line {line}: it is damaged or no text, or UTF-16 without its mark; take the byte "
        "out, or declare encoding='utf-16-le' in its source"
    )


def _wrong_encoding(error: UnicodeDecodeError, encoding: str, lines: int) -> str:
    content = bytes(error.object)
    line = lines + content[: error.start].count(b"\n")
    around = content[max(0, error.start - 20) : error.end + 20].splitlines()
    odd = next((part for part in around if content[error.start : error.end] in part), b"")
    guesses = []
    for guess in _GUESSES:
        try:
            guesses.append(f"encoding={guess!r} (there it reads {odd.decode(guess)!r})")
            break
        except UnicodeDecodeError:
            continue
    return (
        f"is not {encoding}: line {line} has the byte 0x{content[error.start]:02x}; declare the encoding that it was "
        f"written in, such as {' or '.join(guesses)}"
    )


def _is_utf8(encoding: str) -> bool:
    try:
        return codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")
    except LookupError:
        return False


def _cut_last_lines(plain: Path, count: int) -> None:
    """Takes the last lines off; empty ones at the end do not count."""
    with plain.open("r+b") as file:
        end = file.seek(0, 2)
        tail = b""
        while end and tail.rstrip(b"\r\n").count(b"\n") < count:
            start = max(0, end - _CHUNK)
            file.seek(start)
            tail = file.read(end - start) + tail
            end = start
        kept = tail.rstrip(b"\r\n")
        for _ in range(count):
            kept = kept[: max(0, kept.rfind(b"\n"))]
        file.truncate(end + len(kept))
