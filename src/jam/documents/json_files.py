"""JSON records of a file, one by one: JSON lines, an array of records, or records of several lines each."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import BinaryIO

from jam.files import reason

STEP = 2**16  # bytes that are read at a time, doubled for a longer record
# Bytes of a record's text, data URIs included. A record of brackets takes 20 times as many bytes in memory.
MAX_RECORD = 2**26
LONGEST_TOKEN = 16  # of JSON without texts and numbers: an error so near the end may come from a cut token
SPACE = re.compile(r"\s*")
# Last characters of a line that a record continues after, and first characters of the next line (b"": any).
CONTINUES = {b"{": b'"}', b",": b'"', b"[": b"", b":": b""}


class JsonError(ValueError):
    """A file is no JSON from some place on."""


def json_records(file: BinaryIO) -> Iterator[tuple[str, bytes | ValueError]]:
    """The records of a file with their numbers: line numbers in JSON lines, otherwise record numbers.

    The caller parses lines of JSON lines; an error replaces a line that is too long. The records of an array come
    before an error in the array.

    Raises:
        JsonError: an array, or a record of several lines, breaks off, is no JSON, or has a record that is too long.
    """
    first, line = 1, file.readline(MAX_RECORD + 1)
    while line and len(line) <= MAX_RECORD and not line.strip():
        first, line = first + 1, file.readline(MAX_RECORD + 1)
    start = line.removeprefix(codecs.BOM_UTF8).lstrip()
    if start.startswith(b"["):
        yield from _numbered(_values(file, start, in_array=True))
        return
    record = _whole(file, line)
    following = file.readline(MAX_RECORD + 1)
    if isinstance(record, bytes) and _continues(start.strip(), following.strip()):
        yield from _numbered(_values(file, start + following, in_array=False))
        return
    if isinstance(record, ValueError) or record.strip():
        yield str(first), record
    rest = chain([following], iter(lambda: file.readline(MAX_RECORD + 1), b""))
    for number, line in enumerate(rest, first + 1):
        record = _whole(file, line)
        if isinstance(record, ValueError) or record.strip():
            yield str(number), record


def _whole(file: BinaryIO, line: bytes) -> bytes | ValueError:
    """The line that `readline` returned, or an error if it is too long; the rest of such a line is skipped."""
    size = len(line)
    if size <= MAX_RECORD:
        return line
    while not line.endswith(b"\n") and (line := file.readline(STEP)):
        size += len(line)
    return ValueError(f"the record has {size} bytes, more than {MAX_RECORD}; put its pictures into files")


def _numbered(records: Iterable[bytes]) -> Iterator[tuple[str, bytes]]:
    return ((str(number), record) for number, record in enumerate(records, 1))


def _continues(line: bytes, following: bytes) -> bool:
    """True if the first line is only the beginning of a record."""
    begins = CONTINUES.get(line[-1:])
    if not line.startswith(b"{") or begins is None or not following:
        return False
    return not begins or following[:1] in begins


def _values(file: BinaryIO, start: bytes, in_array: bool) -> Iterator[bytes]:
    """Values of an array, or of a sequence of values."""
    try:
        text = _Text(file, start)
        if not in_array:
            while text.peek():
                yield text.value()
            return
        text.take()
        is_empty = text.peek() == "]"
        while not is_empty:
            yield text.value()
            if (mark := text.peek()) == "]":
                break
            if mark != ",":
                raise JsonError(f"expected ',' or ']' after a record, got {mark or 'the end of the file'!r}")
            text.take()
        text.take()
        if rest := text.peek():
            raise JsonError(f"expected the end of the file after the array, got {rest!r}")
    except JsonError:
        raise
    except (ValueError, RecursionError) as error:  # ValueError: UTF-8, grammar, or a number of very many digits
        raise JsonError(reason(error)) from None


class _Text:
    """JSON text of a file, with at most the longest value in memory."""

    def __init__(self, file: BinaryIO, start: bytes) -> None:
        self._file, self._decode = file, codecs.getincrementaldecoder("utf-8")().decode
        self._parse = json.JSONDecoder().raw_decode
        self._window, self._place, self._is_end = self._decode(start), 0, False

    def peek(self) -> str:
        """The next character that is no space; "" at the end."""
        while True:
            found = SPACE.match(self._window, self._place)
            assert found is not None
            self._place = found.end()
            if self._place < len(self._window) or not self._read(STEP):
                return self._window[self._place : self._place + 1]

    def take(self) -> None:
        self._place += 1

    def value(self) -> bytes:
        """The next value. Raises JSONDecodeError if there is none."""
        self.peek()
        step = STEP
        while True:
            try:
                _, end = self._parse(self._window, self._place)
                is_whole = end < len(self._window)  # otherwise a number may continue
            except json.JSONDecodeError as error:
                end, is_whole = 0, False
                if not error.msg.startswith("Unterminated") and error.pos < len(self._window) - LONGEST_TOKEN:
                    raise
                if self._is_end:
                    raise
            if (end or len(self._window)) - self._place > MAX_RECORD:
                raise JsonError(f"the next record has more than {MAX_RECORD} bytes; put its pictures into files")
            if (is_whole or not self._read(step)) and end:
                value = self._window[self._place : end].encode()
                self._place = end
                return value
            step *= 2

    def _read(self, step: int) -> bool:
        """Read more bytes; False at the end of the file."""
        read = self._file.read(step)
        text = self._decode(read, not read)
        if not read:
            self._is_end = True
            return False
        self._window, self._place = self._window[self._place :] + text, 0
        return True
