"""Archives end as their format says, or with what is wrong: damaged, cut and joined ones are no shorter archives."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from jam.data import open_sources, records
from jam.data.tar_files import BLOCK, TarError, content_of, members
from support import sources

CASES = Path(__file__).parents[3] / "shared" / "cases"
NAMES = ["1.txt", "a/2.txt", f"{'long/' * 40}3.txt", "\u00e4\u20ac/4.txt", f"{'deep/' * 18}{'x' * 90}.txt"]


def archive(format: int = tarfile.PAX_FORMAT, names: list[str] = NAMES) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as made:
        for number, name in enumerate(names):
            sources.add(made, name, f"text {number} ".encode() * (number * 60))
    return buffer.getvalue()


def read(content: bytes) -> dict[str, bytes]:
    file = io.BytesIO(content)
    return {one.name: content_of(file, one) for one in members(file) if one.link is None}


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_files_are_those_of_tarfile(format: int) -> None:
    content = archive(format)
    with tarfile.open(fileobj=io.BytesIO(content)) as opened:
        expected = {one.name: opened.extractfile(one).read() for one in opened}  # type: ignore[union-attr]
    assert read(content) == expected and list(expected) == NAMES


def test_other_kinds_of_members() -> None:
    """Folders, devices and pipes are none; links say what they lead to; a global header is for all."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", pax_headers={"comment": "of all"}) as made:
        for kind in (tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo("no")
            member.type, member.size = kind, 0
            made.addfile(member)
        sources.add(made, "1.txt", b"A.")
        for kind in (tarfile.LNKTYPE, tarfile.SYMTYPE):
            member = tarfile.TarInfo("2.txt")
            member.type, member.linkname = kind, "1.txt" * 40
            made.addfile(member)
    file, hard, symbolic = members(io.BytesIO(buffer.getvalue()))
    assert (file.name, file.size, file.link) == ("1.txt", 2, None)
    assert hard.link == symbolic.link == "1.txt" * 40 and symbolic.is_symbolic and not hard.is_symbolic


def test_old_archives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a magic number, with a sum of signed bytes, and with numbers in base 256."""
    header = bytearray(archive(tarfile.USTAR_FORMAT, ["\u00e4.txt"])[:BLOCK])
    header[124:136] = b"\x80" + (5).to_bytes(11, "big")
    header[257:265] = bytes(8)
    header[148:156] = b" " * 8
    total = sum(byte - 256 if byte > 127 else byte for byte in header)
    header[148:156] = b"%06o\0 " % total
    content = bytes(header) + b"Text.".ljust(BLOCK, b"\0") + bytes(2 * BLOCK)
    assert read(content) == {"\u00e4.txt": b"Text."}


def with_sum(header: bytes) -> bytes:
    rest = header[:148] + b" " * 8 + header[156:]
    return header[:148] + b"%06o\0 " % sum(rest) + header[156:]


def claiming(size: bytes, kind: bytes = b"0", name: bytes = b"1.txt") -> bytes:
    """A header of a file that has so many bytes, it says."""
    header = archive(tarfile.USTAR_FORMAT, ["1.txt"])[:BLOCK]
    return with_sum(
        name.ljust(100, b"\0") + header[100:124] + size.ljust(12, b"\0") + header[136:156] + kind + header[157:]
    )


PLAIN = archive(tarfile.USTAR_FORMAT, ["1.txt", "2.txt", "3.txt"])
END = bytes(2 * BLOCK)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (PLAIN[:BLOCK] + bytes([PLAIN[BLOCK] ^ 1]) + PLAIN[BLOCK + 1 :], "its checksum is another one"),
        (PLAIN[: BLOCK + 148] + b"999999" + PLAIN[BLOCK + 154 :], "its checksum is another one"),
        (PLAIN[: BLOCK + 148] + bytes(8) + PLAIN[BLOCK + 156 :], "its checksum is another one"),
        (PLAIN[:BLOCK], "it is cut: an archive ends in a block of zeros"),
        (PLAIN[: BLOCK + 100], "it is cut: an archive ends in a block of zeros"),
        (PLAIN[: 2 * BLOCK + 100], "it is cut within the file 2.txt"),
        (PLAIN[:-100], "its last block is cut"),
        (PLAIN[:-100].rstrip(b"\0") + bytes(60), "it is cut"),
        (b"", "it is cut"),
        (b"no archive" * 100, "checksum"),
        (PLAIN + PLAIN, "it has data after its end"),
        (PLAIN + b"x", "it has data after its end"),
        (PLAIN.rstrip(b"\0").ljust(6 * BLOCK, b"\0") + b"\0" * BLOCK + PLAIN, "it has data after its end"),
        (claiming(b"1234x") + END, "no number where a file's size stands"),
        (claiming(b"-1") + END, "no number where a file's size stands"),
        (claiming(b"\xff" * 12) + END, "no number where a file's size stands"),
        (claiming(b"\x80" + b"\xff" * 11) + END, "says that the file 1.txt has"),
        (claiming(b"77777777777") + END, "it is cut"),
        (claiming(b"77777777777", b"x") + END, "the extension of a header has 8589934591 bytes, more than"),
        (claiming(b"77777777777", b"g") + END, "the extension of a header has 8589934591 bytes, more than"),
        (claiming(b"77777777777", b"L") + END, "the extension of a header has 8589934591 bytes, more than"),
        (claiming(b"77777777777", b"K") + END, "the extension of a header has 8589934591 bytes, more than"),
        (claiming(b"1750", b"x") + b"9999999 path=x\n".ljust(BLOCK, b"\0"), "it is cut within the extension"),
        (claiming(b"20", b"x") + b"9999999 path=x\n".ljust(BLOCK, b"\0") + END, "extension of a header is damaged"),
        (claiming(b"20", b"x") + b"0 path=x\n".ljust(BLOCK, b"\0") + END, "extension of a header is damaged"),
        (claiming(b"20", b"x") + b"no lines at all".ljust(BLOCK, b"\0") + END, "extension of a header is damaged"),
        (claiming(b"14", b"x") + b"12 size=-12\n".ljust(BLOCK, b"\0") + claiming(b"2") + END, "says -12 for a file"),
        (claiming(b"12", b"x") + b"10 path=x\n".ljust(BLOCK, b"\0") + END, "it ends after the extension of a header"),
        (claiming(b"2000", b"L") + b"x" * BLOCK * 2 + claiming(b"0") + END, None),
        (claiming(b"20000", b"L") + b"x" * BLOCK * 16 + claiming(b"0") + END, "a file's name has 8192 characters"),
        (claiming(b"0", b"S") + END, "the file 1.txt is sparse"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(content: bytes, message: str | None) -> None:
    if message is None:
        assert [len(name) for name in read(content)] == [1024]
        return
    with pytest.raises(TarError, match=message):
        read(content)


@pytest.mark.parametrize("key", ["GNU.sparse.map", "GNU.sparse.size", "GNU.sparse.major"])
def test_sparse_files_are_refused(key: str) -> None:
    """What pax says of them would be read until it ends, and unpacks to what it claims."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as made:
        member = tarfile.TarInfo("1.txt")
        member.pax_headers = {key: "9999999999"}
        made.addfile(member)
    with pytest.raises(TarError, match=r"the file 1.txt is sparse; write the archive without that"):
        read(buffer.getvalue())


def test_every_flipped_bit_of_a_header_is_found() -> None:
    content = archive(tarfile.USTAR_FORMAT, ["1.txt", "2.txt"])
    whole = read(content)
    for bit in range(8 * BLOCK):
        damaged = bytearray(content)
        damaged[BLOCK + bit // 8] ^= 1 << bit % 8
        with suppress(TarError):
            assert read(bytes(damaged)) == whole and 148 * 8 <= bit < 156 * 8  # the end of the sum itself


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut in the middle": lambda packed: packed[: len(packed) // 2],
    "cut at its sum": lambda packed: packed[:-4],
    "another sum": lambda packed: packed[:-8] + bytes([packed[-8] ^ 1]) + packed[-7:],
    "garbage behind it": lambda packed: packed + b"garbage",
    "another archive behind it": lambda packed: packed + packed,
    "a flipped bit": lambda packed: packed[:60] + bytes([packed[60] ^ 4]) + packed[61:],
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.tar"])
def test_packed_archives(tmp_path: Path, damage: str, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(archive()))
    assert len(list(open_sources([path])[0].read())) == len(NAMES)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(ValueError, match=rf"{name}: cannot be read after sample '.*' \(.*\); is it whole"):
        list(open_sources([path])[0].read())


@pytest.mark.parametrize("skip", [0, 2, 5])
def test_what_is_skipped_is_looked_at_too(tmp_path: Path, skip: int) -> None:
    (tmp_path / "a.tar").write_bytes(archive() * 2)
    with pytest.raises(ValueError, match="it has data after its end"):
        list(open_sources([tmp_path / "a.tar"])[0].read(skip))


@pytest.mark.skipif(not CASES.is_dir(), reason="there are no cases beside the repository")
def test_cases() -> None:
    def texts(name: str) -> list[Any]:
        return [record.value["txt"] for record in open_sources([CASES / "damaged" / name])[0].read()]  # type: ignore[index, call-overload]

    assert len(texts("ok.tar")) == 6
    for name in ("bit.tar", "cut.tar"):
        with pytest.raises(ValueError, match=rf"{name}: cannot be read after sample .*; is it whole"):
            texts(name)


def test_links_lead_to_the_last_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are kept for them, and an archive may have very many."""
    monkeypatch.setattr(records, "KEPT", 3)
    with tarfile.open(tmp_path / "a.tar", "w") as made:
        for number in range(5):
            sources.add(made, f"{number}.txt", b"A.")
        for number, target in ((5, 4), (6, 0)):
            member = tarfile.TarInfo(f"{number}.txt")
            member.type, member.linkname = tarfile.LNKTYPE, f"{target}.txt"
            made.addfile(member)
    *_, near, far = open_sources([tmp_path / "a.tar"])[0].read()
    assert near.value == {"txt": b"A."} and isinstance(far.value["txt"], ValueError)  # type: ignore[index, call-overload]
