"""Documents that somebody made to break what reads them: pipes, bombs, records without end, addresses of memory."""

from __future__ import annotations

import base64
import gzip
import importlib
import io
import json
import os
import re
import socket
import struct
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image as PILImage

from jam.cli import main
from jam.data import converters, open_sources, records, tables
from jam.documents import Document, Image, json_files, pictures, read_documents
from jam.documents.pixels import FORMATS
from jam.tokenizer_training import PictureSource
from jam.tokenizer_training.pictures import Pictures, find_pictures
from support import sources, tiny
from support.sources import read_source

SOURCE = Path(__file__).parents[2]
MANY = 10_000


# What is no regular file


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def socket_at(path: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as made:
        os.chdir(path.parent)  # its name may have 108 bytes
        made.bind(path.name)
    return path


def device(path: Path) -> Path:
    path.symlink_to("/dev/zero")
    return path


def folder(path: Path) -> Path:
    path.mkdir()
    return path


PROBLEM = r"(?:is no regular file; give one that lies on a disk|cannot be opened \(No such device or address\))"
KINDS: dict[str, Callable[[Path], Path]] = {"pipe": pipe, "socket": socket_at, "device": device, "folder": folder}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json.gz", "a.parquet", "a.tar"])
def test_sources_are_regular_files(tmp_path: Path, kind: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sources").mkdir()
    path = KINDS[kind](tmp_path / "sources" / name)
    with pytest.raises(ValueError, match=rf"{PROBLEM}|no documents in this folder"):
        open_sources([path])
    with pytest.raises(ValueError, match=rf"{name} {PROBLEM}"):
        open_sources([path.parent])
    with pytest.raises(ValueError, match=rf"{name} {PROBLEM}"):
        list(read_documents(path))


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_are_regular_files(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = KINDS[kind](tmp_path / "a.png")
    with pytest.raises(ValueError, match=rf"picture .*a.png {PROBLEM}"):
        Image(path=str(path)).load()
    (tmp_path / "a.jsonl").write_text('{"content": "A.", "image": "a.png"}\n')
    with pytest.raises(ValueError, match=r"picture a.png lies outside of" if kind == "device" else PROBLEM):
        for document in read_documents(tmp_path / "a.jsonl"):
            document.images[0].load()
    tiny.picture(0).save(tmp_path / "b.png")
    assert [one.key for one in find_pictures([PictureSource(str(tmp_path))])] == ["b.png"]


# Records without end


def whole(number: int) -> bytes:
    return json.dumps({"content": f"Text {number}."}).encode()


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("long", [b'{"content": "' + b"x" * MANY + b'"}', b" " * MANY + b"x", b"x" * MANY])
def test_a_long_line_costs_one_record(
    tmp_path: Path, name: str, place: int, long: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_files, "MAX_RECORD", MANY - 1)
    lines = [whole(0), whole(1)]
    lines.insert(place, long)
    text = b"\n".join(lines)
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    found = read_source(tmp_path / name)
    problem = found.pop(place)
    assert isinstance(problem, str)
    assert re.fullmatch(r"the record has \d{5} bytes, more than 9999; put its pictures into files", problem)
    assert [one.texts for one in found if isinstance(one, Document)] == [["Text 0."], ["Text 1."]]
    if name == "a.jsonl":
        with pytest.raises(ValueError, match=rf"a.jsonl:{place + 1}: the record has \d+ bytes"):
            list(read_documents(tmp_path / name))


@pytest.mark.parametrize(
    "text",
    [
        b"[" + whole(0) + b', {"content": "' + b"x" * MANY + b'"}]',
        b"[" + whole(0) + b', {"content": "' + b"x" * 10 * MANY,
        b"[" + whole(0) + b", " + b"[" * 900 + b"1," * MANY,
        b'{\n"content": "Text 0."}\n{\n"content": "' + b"x" * MANY + b'"}',
    ],
)
@pytest.mark.parametrize("step", [64, 2**16])
def test_arrays_stop_at_a_record_that_is_too_long(
    tmp_path: Path, text: bytes, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_files, "MAX_RECORD", MANY - 1)
    monkeypatch.setattr(json_files, "STEP", step)
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(ValueError, match=r"a.json: cannot be read after record 1 \(the next record has more than 9999"):
        read_source(tmp_path / "a.json")


def test_one_line_with_a_long_array_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_files, "MAX_RECORD", 100)
    (tmp_path / "a.json").write_bytes(b"[" + b", ".join(map(whole, range(500))) + b"]")
    assert len(read_source(tmp_path / "a.json")) == 500


@pytest.mark.parametrize("text", [b"[%s]" % (b"1" * 5000), b'[{"n": %s}]' % (b"1" * 5000)])
def test_numbers_of_many_digits_name_the_file(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(ValueError, match=r"a.json: cannot be read after record 0 \(Exceeds the limit"):
        read_source(tmp_path / "a.json")


def archive(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as made:
        for name, content in files.items():
            sources.add(made, name, content)
    return path


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_large_samples_are_rejected_alone(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By one file, or by all of them; also where there are very many of them with nothing in them."""
    monkeypatch.setattr(records, "MAX_SAMPLE", MANY)
    files = {
        "1.txt": b"A.",
        "2.txt": b"x" * MANY,
        "3.txt": b"A.",
        "3.a": b"x" * 4000,
        "3.b": b"x" * 4000,
        "4.txt": b"A.",
    }
    files |= {f"5.{number}": b"" for number in range(20)} | {"6.txt": b"A."}
    one, two, three, four, five, six = read_source(archive(tmp_path / name, files))
    assert [document.texts for document in (one, four, six) if isinstance(document, Document)] == [["A."]] * 3
    assert two == "the sample's files up to 2.txt have 11024 bytes, more than 10000"
    assert three == "the sample's files up to 3.b have 11074 bytes, more than 10000"
    assert isinstance(five, str) and five.startswith("the sample's files up to 5.9 have 10240 bytes")


def test_large_rows_are_rejected_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A column whose few bytes are many once they are unpacked, or are many times the same."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(records, "MAX_SAMPLE", MANY)
    texts = ["A.", "x" * MANY, "A.", *["y" * 400] * 100]
    parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "a.parquet", row_group_size=60, compression="zstd")
    found = read_source(tmp_path / "a.parquet")
    assert len(found) == len(texts) and isinstance(found[1], str)
    assert re.fullmatch(r"the row has 100\d\d bytes, more than 10000", found[1])
    assert [one.texts[0] for one in found if isinstance(one, Document)] == [texts[0], *texts[2:]]
    keys = [record.key for record in open_sources([tmp_path / "a.parquet"])[0].read(70)]
    assert keys == [str(number) for number in range(71, 104)]


def test_rows_that_say_how_large_they_are_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(records, "MAX_SAMPLE", MANY)
    monkeypatch.setattr(tables, "_row", lambda *arguments: pytest.fail("it is read"))
    table = pyarrow.table({"text": ["A.", "x" * 2 * MANY, "B."]})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=1, compression="zstd")
    first, second, third = read_source(tmp_path / "a.parquet")
    assert isinstance(first, Document) and isinstance(third, Document) and isinstance(second, str)
    assert re.fullmatch(r"the rows around it have \d{5} bytes, more than 10000 each", second)


def test_rows_that_python_cannot_have_are_rejected_alone(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    bad = pyarrow.Array.from_buffers(
        pyarrow.string(),
        3,
        [None, pyarrow.py_buffer(struct.pack("<4i", 0, 2, 4, 6)), pyarrow.py_buffer(b"A.\xff\xfeB.")],
    )
    parquet.write_table(pyarrow.table({"text": bad}), tmp_path / "a.parquet")
    first, second, third = read_source(tmp_path / "a.parquet")
    assert isinstance(first, Document) and isinstance(third, Document)
    assert isinstance(second, str) and second.startswith("the row cannot be read: 'utf-8' codec can't decode")
    days = pyarrow.array([1, 2**60], pyarrow.timestamp("us"))
    parquet.write_table(pyarrow.table({"text": ["A.", "B."], "made": days}), tmp_path / "b.parquet")
    first, second = read_source(tmp_path / "b.parquet")
    assert isinstance(first, Document) and isinstance(second, str) and "the row cannot be read" in second


def test_texts_of_tables_and_samples_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(converters, "MAX_RECORD", 100)
    long = b"x" * 101
    files = {"1.txt": long, "2.json": b'{"content": "%s"}' % long, "3.txt": b"A."}
    one, two, three = read_source(archive(tmp_path / "a.tar", files))
    assert one == two == "the record's text is longer than 100 bytes; cut it" and isinstance(three, Document)


def test_data_uris_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_RECORD", 1000)
    with pytest.raises(ValueError, match=r"in the data URI cannot be read .*1022 characters, more than the 1000"):
        Image.at("data:image/png;base64," + "A" * 1000, None).load()
    monkeypatch.setattr(pictures, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match="has 1001 bytes, more than the 1000 of a picture's file"):
        Image(data=bytes(1001)).load()


def test_blocks_are_of_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records that are encoded together are fewer where they are large, and the shards have them all."""
    module = importlib.import_module("jam.data.prepare")
    monkeypatch.setattr(module, "MAX_BLOCK", 200)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join([*map(whole, range(20)), json.dumps({"content": "x " * 300}).encode(), whole(21)]))
    blocks = list(module._blocks(open_sources([path]), module.State()))
    assert [len(block.records) for block in blocks] == [9, 9, 3, 1]


# Memory, for what claims or unpacks to gigabytes

BOMBS = """
import resource, sys
import jam.data.converters, jam.documents
from jam.data import open_sources
from jam.data.converters import to_document
import pyarrow.parquet
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 600 * 2**20,) * 2)
for path in sys.argv[1:]:
    try:
        for record in open_sources([path])[0].read():
            try:
                for image in to_document(record).images:
                    image.load()
                print("read")
            except ValueError as error:
                print(error)
    except ValueError as error:
        print(error)
"""
STEP, STEPS = 2**26, 20  # 1.3 GB


def long_line(path: Path) -> None:
    """One line of 1.3 GB in a file of 6 MB: a part of zeros again and again."""
    path.write_bytes(gzip.compress(bytes(STEP), 1) * STEPS + gzip.compress(b'\n{"content": "A."}\n'))


def header(size: int, kind: bytes, extra: bytes = b"") -> bytes:
    member = tarfile.TarInfo("1.txt")
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT) + extra


def unpacked(kind: bytes, end: bytes = b"") -> Callable[[Path], object]:
    """Writes a file whose first header says that so much follows, which does."""
    packed = gzip.compress(header(STEPS * STEP, kind)) + gzip.compress(bytes(STEP), 1) * STEPS + end
    return lambda path: path.write_bytes(packed)


def large_file(path: Path) -> None:
    others = archive(path.with_name("others.tar"), {"2.txt": b"A."}).read_bytes()
    unpacked(b"0", gzip.compress(others))(path)


def bomb(side: int) -> bytes:
    """A PNG file that says it has so many pixels a side, and has them."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(bytes(STEP)) for _ in range(side * side // STEP + 1)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def large_picture(path: Path) -> None:
    uri = "data:image/png;base64," + base64.b64encode(bomb(30_000)).decode()
    path.write_text(json.dumps({"text": "A.", "image": uri}))


MADE: dict[str, tuple[Callable[[Path], object], str]] = {
    "line.jsonl.gz": (long_line, "the record has 1342177281 bytes, more than 67108864"),
    "file.tar.gz": (large_file, "the sample's files up to 1.txt have 1342178304 bytes, more than"),
    "pax.tar.gz": (unpacked(b"x"), "the extension of a header has 1342177280 bytes, more than"),
    "name.tar.gz": (unpacked(b"L"), "the extension of a header has 1342177280 bytes, more than"),
    "sparse.tar.gz": (unpacked(b"S"), "the file 1.txt is sparse"),
    "picture.jsonl": (large_picture, "has 30000 x 30000 pixels|is too large"),
}


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory as Linux has them")
def test_bombs_take_little_memory(tmp_path: Path) -> None:
    """A process that may take 600 MB more than it has reads all of them, and the records beside them."""
    pytest.importorskip("pyarrow")
    for name, (make, _) in MADE.items():
        make(tmp_path / name)
    environment = {**os.environ, "PYTHONPATH": str(SOURCE / "src"), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", BOMBS, *(str(tmp_path / name) for name in MADE)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    read = [line for line in lines if line == "read"]
    assert len(read) == 2  # behind the long line and the large file
    for line, (_, message) in zip([line for line in lines if line != "read"], MADE.values(), strict=True):
        assert re.search(message, line)


# The same rejects in every run


def test_rejects_are_the_same_in_every_run(tmp_path: Path) -> None:
    """Whatever a library says of it: no address of memory, and as many lines as rejects."""
    made = tiny.model(tmp_path / "made")
    (tmp_path / "fused").mkdir()
    made.save(tmp_path / "fused")
    docs = tmp_path / "docs"
    (docs / "images").mkdir(parents=True)
    contents = {
        "text.png": b"no picture",
        "empty.png": b"",
        "eps.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    }
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"):
        buffer = io.BytesIO()
        tiny.picture(0, (40, 40)).save(buffer, format=kind)
        for cut in (12, 40, len(buffer.getvalue()) // 2):
            contents[f"{kind}-{cut}.png"] = buffer.getvalue()[:cut]
    lines = [{"text": "A.", "image": f"images/{name}"} for name in contents]
    for name, content in contents.items():
        (docs / "images" / name).write_bytes(content)
        lines.append({"text": "A.", "image": "data:image/png;base64," + base64.b64encode(content).decode()})
    others = [
        b"\xff",
        b"[" * 5000,
        b'{"a": 1',
        b'{"content": [{"type": "image", "image": {"bytes": {}}}]}',
        b'{"text": "\\ud83d"}',
    ]
    (docs / "a.jsonl").write_bytes(b"\n".join([*(json.dumps(line).encode() for line in lines), *others]))
    archive(docs / "b.tar", {f"{number}.{name}": content for number, (name, content) in enumerate(contents.items())})
    found = []
    for out in ("first", "second"):
        names = [str(docs), "--model", str(tmp_path / "fused"), "--out", str(tmp_path / out), "--max-rejects", "1000"]
        assert main(["prepare", *names]) == 0
        found.append((tmp_path / out / "rejects.jsonl").read_bytes())
    assert found[0] == found[1] and found[0].count(b"\n") >= len(contents) and b" at 0x" not in found[0]


# Formats


def test_one_function_opens_pictures() -> None:
    """With the formats that are named there; no other place opens what somebody else made."""
    opening = re.compile(r"\b(?:PILImage|Image)\.open\(")
    paths = [path for folder in ("src", "examples", "benchmarks") for path in (SOURCE / folder).rglob("*.py")]
    found = [path.relative_to(SOURCE).as_posix() for path in paths if opening.search(path.read_text(encoding="utf-8"))]
    assert found == ["src/jam/documents/pixels.py"]


@pytest.mark.parametrize("kind", ["EPS", "PDF", "WMF", "FITS", "SPIDER", "IM", "MSP"])
def test_other_formats_are_refused_everywhere(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that need another program, that read other files, and that nobody takes for pictures."""
    assert kind not in FORMATS
    path = tmp_path / "a.png"
    if kind == "WMF":
        path.write_bytes(b"\xd7\xcd\xc6\x9a\0\0" + bytes(60))
    elif kind == "FITS":
        path.write_bytes(b"SIMPLE  =                    T".ljust(2880))
    else:
        mode = {"MSP": "1", "SPIDER": "F"}.get(kind, "RGB")
        buffer = io.BytesIO()  # saving a SPIDER file teaches Pillow its suffix
        tiny.picture(0, (16, 12)).convert(mode).save(buffer, format=kind)
        path.write_bytes(buffer.getvalue())
    content = path.read_bytes()
    monkeypatch.setattr(subprocess, "Popen", lambda *arguments, **options: pytest.fail("another program is called"))
    images = (
        Image(path=str(path)),
        Image(data=content),
        Image.at("data:;base64," + base64.b64encode(content).decode(), None),
    )
    for image in images:
        with pytest.raises(ValueError, match="it is of none of the formats PNG, JPEG"):
            image.load()
    found = Pictures(find_pictures([PictureSource(str(tmp_path))]), 16)
    with pytest.raises(ValueError, match="none of the formats"):
        found.first()
    found.close()


def test_formats_are_those_that_pillow_reads_alone() -> None:
    PILImage.init()
    assert {name for name in FORMATS if name in PILImage.OPEN} >= {"PNG", "JPEG", "WEBP", "GIF", "TIFF"}
    assert not {"EPS", "PS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG", "FLI", "FPX", "MIC", "GBR", "IPTC"} & set(FORMATS)
