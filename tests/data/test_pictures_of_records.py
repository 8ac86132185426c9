"""Pictures of records are found under the keys that people use; a record with one that is not found is rejected."""

from __future__ import annotations

import base64
import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest

from jam.data import open_sources
from jam.data.converters import to_document
from jam.data.records import Record
from jam.documents import Document, Image, Sample, Text, data_uri, parse_record, read_documents, to_record
from support import sources, tiny
from support.sources import read_source

CASES = Path(__file__).parents[3] / "shared" / "cases"
URI = data_uri(tiny.picture(3))


@pytest.fixture
def folder(tmp_path):
    for number in range(3):
        tiny.picture(number).save(tmp_path / f"{number}.png")
    return tmp_path


def shown(document: Document) -> list[str | bytes]:
    """Texts, and pixels of pictures."""
    return [part.text if isinstance(part, Text) else part.load().tobytes() for part in document.parts]


def pixels(seed: int, size: tuple[int, int] = (4, 4)) -> bytes:
    return tiny.picture(seed, size).tobytes()


def read(folder: Path, record: dict) -> Document:
    path = folder / "records.jsonl"
    path.write_text(json.dumps(record) + "\n")
    (found,) = open_sources([path])[0].read()
    return to_document(found)


def chat(question: object, answer: object = "A flag.") -> list[dict]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


FLAG = [pixels(0), "Who is it?", "A flag."]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        # conversations, with a place for each picture
        ({"messages": chat("<image>Who is it?"), "images": ["0.png"]}, FLAG),
        ({"messages": chat("<image>Who is it?"), "image": "0.png"}, FLAG),
        ({"messages": chat("Two: <image> and <image>"), "images": ["0.png", "1.png"]},
         ["Two: ", pixels(0), " and ", pixels(1), "A flag."]),
        ({"messages": chat("Draw.", "Here: <image> Well?"), "images": ["2.png"]},
         ["Draw.", "Here: ", pixels(2), " Well?"]),
        ({"messages": chat([{"type": "image"}, {"type": "text", "text": "Who is it?"}]), "images": ["0.png"]}, FLAG),
        ({"messages": chat([{"type": "image", "image": None}, {"type": "text", "text": "Who is it?"}]),
          "images": [None, {"bytes": None, "path": "0.png"}]}, FLAG),
        ({"conversations": [{"from": "human", "value": "<image>\nWho?"}, {"from": "gpt", "value": "A flag."}],
          "image": "0.png"}, [pixels(0), "\nWho?", "A flag."]),
        ({"conversations": ["<image>Who is it?", "A flag."], "images": ["0.png"]}, FLAG),
        # a text and what stands beside it
        ({"text": "A.", "images": ["0.png", "1.png"]}, ["A.", pixels(0), pixels(1)]),
        ({"caption": "A.", "img": "0.png"}, ["A.", pixels(0)]),
        ({"caption": "A.", "image_path": "0.png"}, ["A.", pixels(0)]),
        ({"text": "A.", "file_name": "0.png"}, ["A.", pixels(0)]),
        ({"text": "A.", "picture": {"url": URI}}, ["A.", pixels(3)]),
        ({"text": "A.", "image_base64": URI.partition(",")[2]}, ["A.", pixels(3)]),
        ({"text": "First <image> then <image>.", "images": ["1.png", "0.png"]},
         ["First ", pixels(1), " then ", pixels(0), "."]),
        ({"content": "A.", "image": "0.png"}, ["A.", pixels(0)]),
        ({"content": [{"type": "text", "text": "A."}], "images": ["0.png"]}, ["A.", pixels(0)]),
        # parts as chat APIs have them
        ({"content": [{"type": "image_url", "image_url": {"url": URI}}]}, [pixels(3)]),
        ({"content": [{"type": "image", "path": "0.png"}, {"type": "image", "url": URI}]}, [pixels(0), pixels(3)]),
        ({"content": [{"type": "image", "source": {"type": "base64", "data": URI.partition(",")[2]}}]}, [pixels(3)]),
        # names beside a picture that is read are its own
        ({"text": "A.", "image": "0.png", "url": "https://a.b/c.jpg", "coco_url": "https://a.b/c.jpg"},
         ["A.", pixels(0)]),
        ({"text": "A.", "image": URI, "image_path": "gone.png"}, ["A.", pixels(3)]),
        ({"content": [{"type": "text", "text": "A."}, {"type": "image", "image": "0.png"}], "images": ["0.png"]},
         ["A.", pixels(0)]),
        # and these are none
        ({"text": "A.", "images": [], "image": "", "img": None, "image_id": 7, "image_size": [640, 480]}, ["A."]),
        ({"text": "How <image> is written.", "source": "github.com/x/y.png", "title": "File:A.jpg"},
         ["How <image> is written."]),
        ({"text": "A.", "url": "https://a.b/page.html", "image_license": "CC0", "metadata": {"width": 3}}, ["A."]),
        ({"messages": chat("Who?"), "images": []}, ["Who?", "A flag."]),
    ],
)  # fmt: skip
def test_common_forms_are_read(folder, record, expected):
    document = read(folder, record)
    assert shown(document) == expected
    again = parse_record(json.loads(json.dumps(to_record(document))), Sample(folder))
    assert shown(again) == expected  # written as a document, it has its pictures once


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"messages": chat("<image><image>Who?"), "images": ["0.png"]}, '2 places .* and 1 pictures under "images"'),
        ({"messages": chat("Who?"), "images": ["0.png"]}, '0 places of pictures .* and 1 pictures under "images"'),
        ({"messages": chat("<image>Who?"), "images": []}, '1 places of pictures .* and 0 pictures under "images"'),
        ({"messages": chat("<image>Who?")}, "a message has a place for a picture .*no pictures beside it"),
        ({"messages": chat([{"type": "image"}])}, "1 places of pictures .* and 0 pictures beside the text"),
        ({"text": "A <image>.", "images": ["0.png", "1.png"]}, "1 places of pictures .* and 2 pictures"),
        ({"text": "A.", "image": "0.png", "images": ["1.png"]}, "pictures under 'image' and 'images'"),
        ({"text": "A.", "pics": ["0.png"]}, 'under "pics" looks like a picture'),
        ({"text": "A.", "figure": "0.png"}, 'under "figure" looks like a picture'),
        ({"text": "A.", "image": "0.png", "mask": "1.png"}, 'under "mask" looks like a picture'),
        ({"text": "A.", "url": "https://a.b/c.jpg?w=3"}, 'under "url" looks like a picture'),
        ({"text": "A.", "imageUrl": "https://a.b/c"}, 'under "imageUrl" looks like a picture'),
        ({"text": "A.", "meta": {"more": [{"file": "0.png"}]}}, 'under "meta" looks like a picture'),
        ({"text": "A.", "thumbnail": [[0, 1], [2, 3]]}, 'under "thumbnail" looks like a picture'),
        ({"text": "A.", "shot": URI}, 'under "shot" looks like a picture'),
        ({"text": "A.", "source": URI}, 'under "source" looks like a picture'),
        ({"text": "A.", "film": "a.mp4"}, 'under "film" looks like a picture'),
        ({"messages": [{"role": "user", "content": "Who?", "images": [URI]}]}, 'under "images" looks like a picture'),
        ({"content": [{"type": "text", "text": "A.", "image": "0.png"}]}, 'under "image" looks like a picture'),
        ({"content": [{"type": "image", "image": "0.png"}], "images": ["1.png"]},
         'none of the parts is the picture under "images"'),
        ({"text": "A.", "image": {"name": "0.png"}}, "an image is a file's content or name; got dict"),
    ],
)  # fmt: skip
def test_the_rest_is_rejected_by_its_key(folder, record, message):
    with pytest.raises(ValueError, match=message):
        read(folder, record)


def test_pictures_on_the_web_are_named(folder):
    document = read(folder, {"text": "A.", "image": "https://a.b/c.jpg"})
    with pytest.raises(ValueError, match=r"records.jsonl:1: picture https://a.b/c.jpg is on the web; fetch it"):
        document.images[0].load()


def test_every_reader_finds_them(folder):
    """Those of tokenizers and examples too, which read documents alone."""
    path = folder / "documents.jsonl"
    path.write_text(json.dumps({"messages": chat("<image>Who is it?"), "images": ["0.png"]}) + "\n")
    (document,) = read_documents(path)
    assert shown(document) == FLAG
    path.write_text(json.dumps({"content": "A.", "figure": "0.png"}) + "\n")
    with pytest.raises(ValueError, match=r'documents.jsonl:1: what stands under "figure" looks like a picture'):
        list(read_documents(path))


def test_null_means_absent(folder):
    part = {"type": "text", "text": "Hi?", "image": None, "codes": None}
    made = [
        read(folder, {"content": None, "messages": chat([part]), "images": None, "id": None}),
        read(folder, {"messages": None, "content": [part, {"type": "image", "text": None, "image": "0.png"}]}),
        read(folder, {"text": None, "conversations": ["Q?", "A."], "messages": None}),
        read(folder, {"text": "A.", "content": None, "image": "0.png", "caption": None}),
    ]
    assert [shown(one) for one in made] == [["Hi?", "A flag."], ["Hi?", pixels(0)], ["Q?", "A."], ["A.", pixels(0)]]
    assert made[0].extra == {}


def archive_of(path: Path, files: dict[str, bytes], links: dict[str, tuple[bytes, str]] | None = None) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as archive:
        for name, content in files.items():
            sources.add(archive, name, content)
            for link, (kind, target) in (links or {}).items():
                if link.split(".")[0] == name.split(".")[0]:
                    member = tarfile.TarInfo(link)
                    member.type, member.linkname = kind, target
                    archive.addfile(member)
                    links = {key: value for key, value in (links or {}).items() if key != link}
    return path


@pytest.mark.parametrize("kind", ["tif", "tiff", "gif", "bmp", "ppm", "avif", "jp2", "image.png", "JPG", "a.b.webp"])
def test_pictures_of_samples(tmp_path, kind):
    buffer = io.BytesIO()
    suffix = kind.lower().rpartition(".")[2]
    names = {"tif": "TIFF", "jp2": "JPEG2000", "jpg": "JPEG"}
    tiny.picture(1, (16, 16)).save(buffer, format=names.get(suffix, suffix.upper()))
    path = archive_of(tmp_path / "a.tar", {f"x/1.{kind}": buffer.getvalue(), "x/1.txt": b"A.", "x/2.txt": b"B."})
    first, second = read_source(path)
    assert first.texts == ["A."] and first.images[0].load().size == (16, 16)
    assert shown(second) == ["B."]


@pytest.mark.parametrize("name", ["a.tar", "a.tgz"])
def test_links_in_archives(tmp_path, name):
    files = {"x/1.png": sources.png(1), "x/1.txt": b"A.", "x/2.txt": b"B.", "x/3.txt": b"C.", "x/4.txt": b"D."}
    links = {
        "x/2.png": (tarfile.LNKTYPE, "x/1.png"),
        "x/3.png": (tarfile.SYMTYPE, "../x/./2.png"),
        "x/4.png": (tarfile.SYMTYPE, "/etc/x.png"),
    }
    path = archive_of(tmp_path / name, files, links)
    *found, lost = read_source(path)
    assert [shown(one) for one in found] == [[text, pixels(1, (9, 6))] for text in ("A.", "B.", "C.")]
    assert lost == "the file x/4.png is a link to /etc/x.png, which is not before it"
    assert [record.key for record in open_sources([path])[0].read(2)] == ["x/3", "x/4"]


@pytest.mark.parametrize("name", ["a.tar", "a.tgz"])
def test_archives_end_as_their_format_says(tmp_path, name):
    """A header with a flipped bit, and an archive that is cut between two files, are no shorter archives."""
    path = archive_of(tmp_path / name, {f"{number}.txt": b"A." for number in range(6)})
    assert len(read_source(path)) == 6
    opened = gzip.open if name == "a.tgz" else open
    with opened(path, "rb") as file:
        content = file.read()
    for damaged in (content[:1028] + b"\0" + content[1029:], content[:2048], content[:2300]):
        with opened(path, "wb") as file:
            file.write(damaged)
        with pytest.raises(ValueError, match=rf"{name}: cannot be read after sample '\d' .*; is it whole"):
            read_source(path)


def test_samples_whose_pictures_are_not_all_read(tmp_path):
    png = sources.png(1)
    files = {
        **{"1.png": png, "1.mask.png": sources.png(2), "1.txt": b"A."},
        **{"2.bin": png, "2.txt": b"A."},
        **{"3.txt": b"A.", "3.svg": b"<svg/>"},
        **{"4.0.png": png, "4.1.png": sources.png(2), "4.txt": b"<image>, then <image>"},
        **{"5.json": b'{"image": "coco/5.jpg", "caption": "A."}', "5.jpg": png},
        **{"6.json": b'{"messages": [{"role": "user", "content": [{"type": "image", "image": "6.0.png"}]}]}'},
        **{"6.0.png": png, "6.1.png": sources.png(2)},
        **{"7.cls": b"3", "7.npy": b"\x93NUMPY", "7.txt": b"A."},
        **{".hidden": png, "x/._8.png": png, "8.txt": b"A."},
    }
    one, two, three, four, five, six, seven, eight = read_source(archive_of(tmp_path / "a.tar", files))
    assert "pictures under 'png' and 'mask.png'" in one and 'under "bin" looks like a picture' in two
    assert shown(four) == [pixels(1, (9, 6)), ", then ", pixels(2, (9, 6))]
    assert shown(five) == ["A.", pixels(1, (9, 6))] and shown(seven) == shown(eight) == ["A."]
    assert 'none of the parts is the picture under "1.png"' in six
    with pytest.raises(ValueError, match="it is of none of the formats"):
        three.images[0].load()
    with tarfile.open(tmp_path / "twice.tar", "w") as archive:
        for content in (png, sources.png(2)):
            sources.add(archive, "1.png", content)
        sources.add(archive, "1.txt", b"A.")
    assert read_source(tmp_path / "twice.tar") == ["the sample has two files .png; each needs its own"]


def test_columns_of_tables(tmp_path):
    """Contents, structs and lists of them, under known names and others."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    png = sources.png(1)
    rows = [
        {"text": "A.", "image": {"bytes": png, "path": "a.png"}},
        {"text": "A.", "images": [{"bytes": png, "path": None}]},
        {"text": "A.", "img": png},
        {"text": "A.", "source": {"bytes": png, "path": "a.png"}},
        {"text": "A.", "scan": {"bytes": png, "path": "a.png"}},
        {"text": "A.", "more": [png]},
        {"text": "A.", "vector": b"\0\1\2\3"},
        {"text": "A.", "image_raw": b"\0\1\2\3"},
    ]
    names = {name for row in rows for name in row}
    full = [{name: row.get(name) for name in names} for row in rows]
    parquet.write_table(pyarrow.Table.from_pylist(full), tmp_path / "a.parquet")
    *found, source, scan, more, vector, raw = read_source(tmp_path / "a.parquet")
    assert [shown(one) for one in found] == [["A.", pixels(1, (9, 6))]] * 3 and shown(vector) == ["A."]
    for key, message in (("source", source), ("scan", scan), ("more", more), ("image_raw", raw)):
        assert f'under "{key}" looks like a picture' in message


def test_messages_quote_no_megabytes(tmp_path):
    long = "y" * 3_000_000
    for record in ({long: 1}, {"text": "A.", f"{long}.png": URI}, {"text": "A.", "image": {"x": long}}):
        with pytest.raises(ValueError) as caught:
            to_document(Record("a.jsonl", "1", json.dumps(record).encode()))
        assert len(str(caught.value)) < 700
    part = {"type": "image", "image": {"url": "data:image/png;base64," + base64.b64encode(b"0" * 3_000_000).decode()}}
    with pytest.raises(ValueError) as caught:
        parse_record({"content": [part]}, Sample()).images[0].load()
    assert len(str(caught.value)) < 700
    assert isinstance(parse_record({"content": [part]}, Sample()).images[0], Image)


@pytest.mark.skipif(not CASES.is_dir(), reason="there are no cases beside the repository")
@pytest.mark.parametrize("kind", ["lost_pictures/*.jsonl", "tars/*.tar"])
def test_cases_have_their_pictures(kind):
    paths = sorted(CASES.glob(kind))
    assert paths
    for path in paths:
        for document in read_source(path):
            assert isinstance(document, Document) and [image.load().size for image in document.images] == [(96, 128)]
