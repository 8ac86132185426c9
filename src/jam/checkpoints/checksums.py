"""Checksums of files: CRC-32, which finds every single flipped bit.

A folder's own file (such as a manifest) has the checksums of the other files, and a checksum of itself. Checksums guard
against damage, not against people who may write into the folder.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jam.checked import shown
from jam.checkpoints.folders import write_json
from jam.files import FileError, open_regular, read_json

OWN, OTHERS = "checksum", "checksums"  # keys for the file itself and for the other files
PIECE = 2**20  # bytes
POLYNOMIAL = 0xEDB88320  # CRC-32's, with reversed bits


def written(checksum: int) -> str:
    """A checksum as text, e.g. "00c0ffee"."""
    return f"{checksum:08x}"


def checksum_of(path: Path, go_on: Callable[[], bool] = lambda: True) -> str:
    """The checksum of a file; meaningless if `go_on` returns False meanwhile. Raises FileError if there is no file."""
    checksum, buffer = 0, memoryview(bytearray(PIECE))
    with open_regular(path) as file:
        while go_on() and (count := file.readinto(buffer)):  # type: ignore[attr-defined]
            checksum = zlib.crc32(buffer[:count], checksum)
    return written(checksum)


def checksums_in(folder: Path, leave_out: Collection[str], known: Mapping[str, str] = {}) -> dict[str, str]:
    """Checksums of all files in and below a folder, by their paths relative to the folder.

    Args:
        leave_out: names of files to skip.
        known: checksums that need not be computed, also of files that do not exist yet.
    """
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {*leave_out}
    return {name: known.get(name) or checksum_of(folder / name) for name in sorted(names | known.keys())}


def changed(folder: Path, recorded: Mapping[str, str], most_bytes: float = float("inf")) -> list[str]:
    """Names of the files that are missing or have another checksum; files above `most_bytes` are not read."""
    found = []
    for name, checksum in recorded.items():
        path = folder / name
        if not path.is_file():
            found.append(f"{name} (missing)")
        elif path.stat().st_size <= most_bytes and checksum_of(path) != checksum:
            found.append(name)
    return found


def write_sealed(path: Path, values: Mapping[str, Any]) -> None:
    """Write an object as JSON, with a checksum of the object."""
    write_json(path, {**values, OWN: _of_values(values)})


def read_sealed(path: Path, remedy: str) -> dict[str, Any]:
    """The object that `write_sealed`, or an earlier version without checksums, wrote.

    Raises:
        FileError: the object has another checksum; `remedy` says what to do.
    """
    values = read_json(path, remedy=remedy)
    is_sealed, own = OWN in values or OTHERS in values, values.pop(OWN, "nothing")
    if is_sealed and own not in (None, _of_values(values)):
        raise FileError(
            f"{path} is not as it was written: its checksum is {_of_values(values)}, and it says {shown(own)}; "
            f'{remedy}; if you changed it yourself, set its "{OWN}" to null'
        )
    return values


def _of_values(values: Mapping[str, Any]) -> str:
    return written(zlib.crc32(json.dumps(values, sort_keys=True).encode()))


def joined(first: int, second: int, length: int) -> int:
    """The CRC-32 of two texts in sequence, from the CRC-32 of each and the bytes of the second.

    Appending zeros is linear in the bits of a CRC; the square of the matrix appends twice as many zeros.
    """
    power = 3  # a byte is eight zero bits
    while length:
        if length & 1:
            first = _times(_zeros(power), first)
        power, length = power + 1, length >> 1
    return first ^ second


@cache
def _zeros(power: int) -> list[int]:
    """The matrix that appends 2 ** power zero bits."""
    if power == 0:
        return [POLYNOMIAL, *(1 << bit for bit in range(31))]
    half = _zeros(power - 1)
    return [_times(half, column) for column in half]


def _times(matrix: list[int], vector: int) -> int:
    product, bit = 0, 0
    while vector:
        if vector & 1:
            product ^= matrix[bit]
        vector, bit = vector >> 1, bit + 1
    return product
