"""Files of a tar archive, one by one.

`tarfile` takes a damaged header for the end of an archive, ignores data after the end, and reads as many bytes into
memory as a header claims. This module raises a clear error instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

BLOCK = 512
MAX_EXTENSION = 2**20  # bytes of a header's extension: a long name, or pax entries
LONGEST_NAME, LARGEST_FILE = 4096, 2**60
FILES, LINKS, OTHERS, SPARSE = b"07\0", b"12", b"3456", b"S"  # kinds; LINKS and OTHERS have no content
LONG_NAME, LONG_LINK, PAX, PAX_OF_ALL = b"L", b"K", b"xX", b"g"
PAX_SPARSE = "GNU.sparse."
PAX_KEYS = ("path", "linkpath", "size", PAX_SPARSE)
OCTAL = re.compile(rb" *([0-7]*) *(?:\0.*)?", re.DOTALL)
PAX_LINE = re.compile(rb"([0-9]{1,7}) ([^=]+)=")


class TarError(ValueError):
    """An archive is damaged, cut, or no archive from some place on."""


@dataclass(frozen=True)
class Member:
    """A file or link in an archive. `place` is the position of its content; `link` is the target of a link."""

    name: str
    place: int
    size: int
    link: str | None = None
    is_symbolic: bool = False


def members(file: BinaryIO) -> Iterator[Member]:
    """The files and links of an archive; between two members, the caller may read `file` at any position.

    Raises:
        TarError: the archive is damaged, has no end or data after its end, or contains a sparse file.
    """
    place, of_all, said = 0, dict[str, str](), dict[str, str]()
    while True:
        file.seek(place)
        header = file.read(BLOCK)
        if len(header) < BLOCK:
            raise TarError("it is cut: an archive ends in a block of zeros")
        if not header.strip(b"\0"):
            if said:
                raise TarError("it ends after the extension of a header")
            _require_end(file)
            return
        _require_sum(header)
        kind, size, place = header[156:157], _number(header[124:136]), place + BLOCK
        if kind in LONG_NAME + LONG_LINK + PAX + PAX_OF_ALL:
            content = _extension(file, size)
            place += _whole_blocks(size)
            if kind in (LONG_NAME, LONG_LINK):
                said["path" if kind == LONG_NAME else "linkpath"] = _text(content)
            elif kind == PAX_OF_ALL:
                of_all |= _pax(content)
            else:
                said |= _pax(content)
            continue
        said = of_all | said
        name = said.get("path", _name(header))
        if len(name) > LONGEST_NAME:
            raise TarError(f"a file's name has {len(name)} characters")
        if kind == SPARSE or PAX_SPARSE in said:
            raise TarError(f"the file {name:.80} is sparse; write the archive without that (tar without -S)")
        link = said.get("linkpath", _text(header[157:257]))
        size = 0 if kind in LINKS + OTHERS else _size(said["size"]) if "size" in said else size
        if size > LARGEST_FILE:
            raise TarError(f"a header says that the file {name:.80} has {size} bytes")
        if kind in LINKS:
            yield Member(name, place, 0, link, is_symbolic=kind == b"2")
        elif kind in FILES and not (kind == b"\0" and name.endswith("/")):  # a folder in old archives
            yield Member(name, place, size)
        place, said = place + _whole_blocks(size), {}


def content_of(file: BinaryIO, member: Member) -> bytes:
    """The content of a file. Raises TarError if the archive ends within the content."""
    file.seek(member.place)
    content = file.read(member.size)
    if len(content) < member.size:
        raise TarError(f"it is cut within the file {member.name:.80}")
    return content


def _whole_blocks(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _number(field: bytes) -> int:
    """A number in a header: octal digits, or base 256 if the first bit is set."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = OCTAL.fullmatch(field)
    if digits is None:
        raise TarError("a header has no number where a file's size stands")
    return int(digits[1] or b"0", 8)


def _require_sum(header: bytes) -> None:
    """Raises TarError if neither the sum of a header's bytes, nor of signed bytes (old writers), is its checksum."""
    said, rest = OCTAL.fullmatch(header[148:156]), header[:148] + b" " * 8 + header[156:]
    total = sum(rest)
    if said is None or int(said[1] or b"0", 8) not in (total, total - 256 * sum(byte > 127 for byte in rest)):
        raise TarError("a header is damaged: its checksum is another one")


def _name(header: bytes) -> str:
    name, prefix = _text(header[:100]), _text(header[345:500])
    return f"{prefix}/{name}" if prefix and header[257:263] == b"ustar\0" else name


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _extension(file: BinaryIO, size: int) -> bytes:
    if size > MAX_EXTENSION:
        raise TarError(f"the extension of a header has {size} bytes, more than {MAX_EXTENSION}")
    content = file.read(size)
    if len(content) < size:
        raise TarError("it is cut within the extension of a header")
    return content


def _pax(content: bytes) -> dict[str, str]:
    """The values for `PAX_KEYS` in lines of "LENGTH KEY=VALUE", where LENGTH counts the whole line."""
    found, place, content = dict[str, str](), 0, content.rstrip(b"\0")
    while place < len(content):
        line = PAX_LINE.match(content, place)
        end = place + int(line[1]) if line else 0
        if line is None or end <= line.end() or content[end - 1 : end] != b"\n":
            raise TarError("the extension of a header is damaged")
        key, value = (part.decode("utf-8", "surrogateescape") for part in (line[2], content[line.end() : end - 1]))
        if key.startswith(PAX_SPARSE):
            key = PAX_SPARSE
        if key in PAX_KEYS:
            found[key] = value
        place = end
    return found


def _size(value: str) -> int:
    if not re.fullmatch("[0-9]{1,20}", value):
        raise TarError(f"the extension of a header says {value:.20} for a file's size")
    return int(value)


def _require_end(file: BinaryIO) -> None:
    """Raises TarError if the end is followed by anything but whole blocks of zeros."""
    size = 0
    while chunk := file.read(2**16):
        if chunk.strip(b"\0"):
            raise TarError("it has data after its end; give archives that were joined one by one")
        size += len(chunk)
    if size % BLOCK:
        raise TarError("its last block is cut")
