"""Every kind of source gives the same documents, from any place on; what cannot be read is named."""

from __future__ import annotations

import itertools
import json
import tarfile

import pytest

from jam.data import Shards, open_sources, prepare
from jam.data.converters import to_document
from jam.documents import Image, Text
from support import sources, tiny

COUNT = 20


@pytest.fixture(scope="module")
def made():
    return sources.records(COUNT)


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    return tiny.codec(tiny.image_tokenizer(tmp_path_factory.mktemp("tokenizer") / "it"))


def source(kind, folder, made):
    """The name that is given on the command line."""
    if kind.startswith("jsonl"):
        return sources.write_json_lines(folder / "lines", made, f"documents.{kind}")
    if kind.startswith("tar"):
        return sources.write_tar(folder / f"documents.{kind}", made)
    pytest.importorskip("datasets")
    path = sources.write_parquet(folder / "documents.parquet", made)
    return {
        "parquet": path,
        "datasets": f"datasets:parquet?data_files={path}&split=train",
        "streamed": f"datasets:parquet?data_files={path}&split=train&streaming=true",
    }[kind]


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "tar", "tar.gz", "parquet", "datasets", "streamed"])
def test_every_kind_of_source_gives_the_same_shards(tmp_path, made, codec, kind, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    reference = open_sources([sources.write_json_lines(tmp_path / "reference", made)])
    *_, expected = prepare(reference, codec, tmp_path / "expected")
    (opened,) = open_sources([source(kind, tmp_path, made)])
    *_, summary = prepare([opened], codec, tmp_path / "out")
    for one in (summary, expected):
        one["checksums"].pop("origins.jsonl")  # which names the source
    assert summary | {"share": 1.0} == expected and summary["documents"] == COUNT and summary["rejects"] == 0
    for name in ("ids.bin", "offsets.npy", "answers.npy", "images.npy"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "expected" / name).read_bytes()
    whole = list(opened.read())
    for skip in (0, 1, 7, 13, COUNT):
        assert [record.key for record in opened.read(skip)] == [record.key for record in whole[skip:]]
    ids = [to_document(record).extra["id"] for record in opened.read(15)]
    assert ids == [f"d{number}" for number in range(15, COUNT)]


def test_folders_are_read_in_order(tmp_path, made):
    sources.write_json_lines(tmp_path, made[:2], "b.jsonl")
    sources.write_json_lines(tmp_path, made[2:4], "a.jsonl.gz")
    sources.write_tar(tmp_path / "c.tar", made[4:6])
    opened = open_sources([tmp_path])
    assert [one.name.rpartition("/")[2] for one in opened] == ["a.jsonl.gz", "b.jsonl", "c.tar"]


def test_pairs_of_files_are_captions(tmp_path):
    """As img2dataset writes them: a picture, a text and what is known about them."""
    with tarfile.open(tmp_path / "pairs.tar", "w") as archive:
        for number in range(3):
            sources.add(archive, f"{number:05d}.jpg", sources.png(number))
            sources.add(archive, f"{number:05d}.txt", f"picture {number}".encode())
            sources.add(archive, f"{number:05d}.json", json.dumps({"url": f"u{number}", "sha": None}).encode())
        sources.add(archive, "00003.txt", b"a text alone")
    (opened,) = open_sources([tmp_path / "pairs.tar"])
    *pairs, alone = [to_document(record) for record in opened.read()]
    for number, document in enumerate(pairs):
        assert document.texts == [f"picture {number}"] and document.extra == {"url": f"u{number}"}
        assert document.images[0].load().tobytes() == tiny.picture(number, (9, 6)).tobytes()
    assert alone.content == [Text("a text alone")]


def test_pictures_of_data_sets_are_read_as_they_are_stored(tmp_path, codec):
    """Columns and lists of `datasets.Image`, streamed too."""
    datasets = pytest.importorskip("datasets")
    picture = tiny.picture(1, (5, 8))
    rows = {"image": [picture] * 3, "caption": ["a", "b", "c"], "more": [[picture, picture]] * 3}
    features = datasets.Features(
        image=datasets.Image(), caption=datasets.Value("string"), more=datasets.List(datasets.Image())
    )
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "saved")
    (opened,) = open_sources([f"datasets:{tmp_path / 'saved'}"])
    for record in opened.read():
        assert isinstance(record.value["image"]["bytes"], bytes) and isinstance(record.value["more"][0]["bytes"], bytes)
        with pytest.raises(ValueError, match='under "more" looks like a picture'):
            to_document(record)
        del record.value["more"]
        _, image = to_document(record).content
        assert isinstance(image, Image) and image.load().tobytes() == picture.tobytes()
    datasets.Dataset.from_dict(rows, features=features).remove_columns("more").save_to_disk(tmp_path / "fewer")
    *_, summary = prepare(open_sources([f"datasets:{tmp_path / 'fewer'}"]), codec, tmp_path / "out")
    assert summary["images"] == 3


def test_sources_that_are_not_there_or_broken(tmp_path, made, codec):
    def fail(name, match):
        with pytest.raises(ValueError, match=match):
            list(prepare(open_sources([name]), codec, tmp_path / "out"))
        assert not (tmp_path / "out").exists() and not (tmp_path / ".out.partial").exists()

    fail(tmp_path / "none.jsonl", "none.jsonl: no such file of documents")
    (tmp_path / "empty.jsonl").touch()
    fail(tmp_path / "empty.jsonl", "there are no documents in it; the file is empty")
    (tmp_path / "blank.jsonl").write_text("\n\n")
    fail(tmp_path / "blank.jsonl", "blank.jsonl: there are no documents in it")
    (tmp_path / "folder").mkdir()
    fail(tmp_path / "folder", "no documents in this folder; files end in .jsonl")
    (tmp_path / "table.csv").write_text("a,b\n")
    fail(tmp_path / "table.csv", "table.csv: not a known kind of file")
    packed = sources.write_json_lines(tmp_path / "g", made, "documents.jsonl.gz")
    packed.write_bytes(packed.read_bytes()[:-40])
    fail(packed, r"documents.jsonl.gz: cannot be read after line \d+ .*is it whole")
    archive = sources.write_tar(tmp_path / "cut.tar", made)
    archive.write_bytes(archive.read_bytes()[:3000])
    fail(archive, "cut.tar: cannot be read after sample")
    pytest.importorskip("datasets")
    (tmp_path / "no.parquet").write_bytes(b"PAR1 nothing")
    fail(tmp_path / "no.parquet", "no.parquet: cannot be read after row 0")
    fail(f"datasets:{tmp_path}/nowhere", "`datasets` cannot open it")


@pytest.mark.parametrize("kind", ["file", "streamed", "saved"])
def test_a_changed_data_set_begins_anew(tmp_path, codec, kind, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    path = tmp_path / ("saved" if kind == "saved" else "x.jsonl")

    def write(word):
        rows = [{"text": f"{word} {number}"} for number in range(150)]
        if kind == "saved":
            datasets.Dataset.from_list(rows).save_to_disk(path)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    address = "datasets:" + (str(path) if kind == "saved" else f"json?data_files={path}")
    address += "&streaming=true" if kind == "streamed" else ""

    def begin():
        """How many documents were there after the next one."""
        begun = prepare(open_sources([address]), codec, tmp_path / "out")
        first = next(begun)["documents"]
        list(itertools.islice(begun, 69))
        begun.close()
        return first

    write("old")
    assert (begin(), begin()) == (1, 65)  # blocks are of 64
    write("new")
    assert begin() == 1
    list(prepare(open_sources([address]), codec, tmp_path / "out"))
    shards = Shards(tmp_path / "out", codec.vocabulary, codec.fingerprint)
    assert [codec.decode(shards[index].ids).texts for index in range(150)] == [[f"new {n}"] for n in range(150)]


def test_optional_parts_are_named(tmp_path, monkeypatch):
    import importlib

    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    (tmp_path / "a.parquet").write_bytes(b"x")
    for name in (tmp_path / "a.parquet", "datasets:some/where"):
        with pytest.raises(ValueError, match=r"pip install 'jam-fusion\[data\]'"):
            list(open_sources([name])[0].read())


def test_shards_are_read_back(tmp_path, made, codec):
    opened = open_sources([sources.write_json_lines(tmp_path, made)])
    documents = [to_document(record) for record in opened[0].read()]
    list(prepare(opened, codec, tmp_path / "out"))
    shards = Shards(tmp_path / "out", codec.vocabulary, codec.fingerprint)
    assert [shards[index] for index in range(COUNT)] == [codec.encode(document) for document in documents]


def test_code_of_a_data_set_is_never_run() -> None:
    with pytest.raises(ValueError, match="a data set's own code is never run; leave trust_remote_code out"):
        open_sources(["datasets:owner/name?split=train&trust_remote_code=true"])
