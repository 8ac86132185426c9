"""Files of documents' pictures lie beside the documents, or below a folder that the user names."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from jam.cli import main
from jam.data import open_sources
from jam.data.converters import to_document
from jam.documents import Document, Image, PicturePathError, Sample, parse_document, parse_record, read_documents
from jam.tokenizer_training import PictureSource
from jam.tokenizer_training.pictures import find_pictures
from support import sources, tiny

CASES = Path(__file__).parents[3] / "shared" / "cases"
DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder `docs` with a picture, and others beside it: `docs-more`, whose name begins alike, and `away`."""
    for name in ("docs/images", "docs-more", "away"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("docs/images/0.png", "docs-more/0.png", "away/0.png"):
        tiny.picture(0).save(tmp_path / name)
    (tmp_path / "docs" / "link.png").symlink_to(tmp_path / "away" / "0.png")
    (tmp_path / "docs" / "folder").symlink_to(tmp_path / "away")
    (tmp_path / "docs" / "inner.png").symlink_to("images/0.png")
    return tmp_path


def outside(place: Path) -> list[str]:
    away = place / "away" / "0.png"
    return [
        str(away),
        f"file://{away}",
        "../away/0.png",
        "images/../../away/0.png",
        "file://../away/0.png",
        "file://%2e%2e/away/0.png",
        "../docs-more/0.png",
        "link.png",
        "folder/0.png",
        "folder/../docs-more/0.png",  # behind the link, `..` is the folder that has `away`
        "/dev/zero",
        "/etc/passwd",
    ]


def inside(place: Path) -> list[str]:
    path = place / "docs" / "images" / "0.png"
    return ["images/0.png", "./images/../images/0.png", str(path), f"file://{path}", "inner.png", "../docs/inner.png"]


def forms(name: str) -> list[dict[str, Any]]:
    """A picture's name wherever a record may have it."""
    return [
        {"content": [{"type": "image", "image": name}]},
        {"content": [{"type": "image_url", "image_url": {"url": name}}]},
        {"messages": [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": "A."}], "image": name},
        {"text": "A.", "image": name},
        {"text": "A.", "images": [{"bytes": None, "path": name}]},
        {"text": "A.", "image_path": name},
    ]


def write(folder: Path, kind: str, made: list[dict[str, Any]]) -> Path:
    path = folder / f"a.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(one) + "\n" for one in made))
    elif kind == "parquet":
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        rows = [{"content": json.dumps(one["content"])} for one in made if "content" in one]
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        with tarfile.open(path, "w") as archive:
            for number, one in enumerate(made):
                sources.add(archive, f"{number}.json", json.dumps(one).encode())
    return path


def read(path: Path, allowed: Path | None = None) -> list[Document | ValueError]:
    found: list[Document | ValueError] = []
    for record in open_sources([path], allowed)[0].read():
        try:
            found.append(to_document(record))
        except ValueError as error:
            found.append(error)
    return found


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_pictures_elsewhere_are_refused_by_name(place: Path, kind: str) -> None:
    for name in outside(place):
        found = read(write(place / "docs", kind, forms(name)))
        assert len(found) == (2 if kind == "parquet" else 6)
        for one in found:
            assert isinstance(one, PicturePathError), name
            assert f"picture {name[:60]}" in str(one) and "--allowed-media-path DIR" in str(one)
            assert str(one).startswith(f"{place}/docs/a.{kind}:")


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_pictures_beside_the_documents_are_read(place: Path, kind: str) -> None:
    for name in inside(place):
        for one in read(write(place / "docs", kind, forms(name))):
            assert isinstance(one, Document) and one.images[0].load().tobytes() == tiny.picture(0).tobytes(), name


@pytest.mark.parametrize("allowed", ["", "away/..", "/"])
def test_a_folder_may_be_allowed(place: Path, allowed: str) -> None:
    names = [name for name in outside(place) if "0.png" in name or name == "link.png"]
    for name in names + inside(place):
        for one in read(write(place / "docs", "jsonl", forms(name)), place / allowed):
            assert isinstance(one, Document) and one.images[0].load().size == (4, 4), name
    (refused,) = read(write(place / "docs", "jsonl", forms("../docs-more/0.png")[:1]), place / "away")
    assert f"outside of {place}/docs and of {place}/away" in str(refused)
    with pytest.raises(ValueError, match=r"--allowed-media-path .*gone: there is no such folder"):
        open_sources([place / "docs" / "a.jsonl"], place / "gone")


@pytest.mark.parametrize("allowed", [None, Path("/")])
def test_archives_have_their_pictures_in_them(place: Path, allowed: Path | None) -> None:
    """Also with the flag: what a tar names is nothing of the disk."""
    for name in [*outside(place), *inside(place)]:
        for one in read(write(place / "docs", "tar", forms(name)), allowed):
            assert isinstance(one, PicturePathError) and "is no file of the sample" in str(one), name


def test_names_that_are_none() -> None:
    for name in ("a\0b.png", "x/" * 5000 + "a.png", "\ud83d.png"):
        with pytest.raises(PicturePathError, match="cannot be read: that is no name of a file") as caught:
            Image.at(name, Path("nowhere"), "a.jsonl:1: ")
        assert str(caught.value).startswith("a.jsonl:1: ") and len(str(caught.value)) < 300


def test_every_reader_refuses_them(place: Path) -> None:
    path = write(place / "docs", "jsonl", forms("../away/0.png")[:1])
    with pytest.raises(PicturePathError, match=r"a.jsonl:1: picture ../away/0.png lies outside of"):
        list(read_documents(path))
    assert len(list(read_documents(path, place / "away"))) == 1
    with pytest.raises(PicturePathError):
        parse_document(path.read_text(), place / "docs")
    assert parse_document(path.read_text(), place / "docs", "", place).images[0].load()
    with pytest.raises(PicturePathError):
        parse_record(forms("/away/0.png")[0], Sample(place / "docs"))
    with pytest.raises(PicturePathError):
        find_pictures([PictureSource(str(path))])
    assert len(find_pictures([PictureSource(str(path))], str(place))) == 1


def test_pictures_that_the_user_names_are_no_documents(place: Path) -> None:
    assert len(find_pictures([PictureSource(str(place / "docs"))])) == 3  # links too
    assert Image(path=str(place / "away" / "0.png")).load()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    made = tiny.model(tmp_path / "made")
    (tmp_path / "fused").mkdir()
    made.save(tmp_path / "fused")
    return tmp_path / "fused"


def test_commands_take_the_flag(place: Path, model: Path, capsys: Any) -> None:
    """Each of them names picture and flag without it."""
    parts = [{"type": "text", "text": tiny.SENTENCES[0]}, {"type": "image", "image": "../away/0.png"}]
    path = write(place / "docs", "jsonl", [{"content": parts}])
    gaps = place / "docs" / "gaps.json"
    gaps.write_text(json.dumps({"content": [*parts, {"type": "gap", "modality": "text"}]}))
    commands = {
        "prepare": ["prepare", path, "--model", model, "--out", place / "shards"],
        "eval": ["eval", model, path],
        "fill": ["fill", model, gaps, "--max-new-tokens", 4],
        "convert": [
            "convert-documents",
            path,
            "--recipe",
            "documents",
            "--out",
            place / "docs-more" / "converted.jsonl",
        ],
    }
    for name, words in commands.items():
        assert main([*map(str, words)]) == 1, name
        error = capsys.readouterr().err
        assert "picture ../away/0.png lies outside of" in error and "--allowed-media-path" in error, name
        assert main([*map(str, words), "--allowed-media-path", str(place / "away")]) == 0, name
    assert f"needs --allowed-media-path {place}/away" in capsys.readouterr().out
    lines = (place / "docs-more" / "converted.jsonl").read_text()
    assert json.loads(lines)["content"][1]["image"] == "../away/0.png"


def test_a_link_that_is_put_right_is_judged_again(place: Path, model: Path) -> None:
    """As other pictures of rejected documents are, when the same command is run again."""
    made = [{"text": f"{tiny.SENTENCES[0]}", "image": "images/0.png"}] * 70
    path = write(place / "docs", "jsonl", [*made, {"text": tiny.SENTENCES[0], "image": "link.png"}])
    words = ["prepare", str(path), "--model", str(model), "--out", str(place / "shards"), "--max-rejects", "0"]
    assert main(words) == 1
    os.unlink(place / "docs" / "link.png")
    tiny.picture(0, (5, 5)).save(place / "docs" / "link.png")
    assert main(words) == 0
    assert (place / "shards" / "rejects.jsonl").read_bytes() == b""


def test_data_sets_have_their_files_in_their_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures that `datasets` gives as names of files, and names that a record makes up."""
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(place / "cache"))
    write(place / "docs", "jsonl", [{"text": "A.", "image": name} for name in ("images/0.png", "../away/0.png")])
    address = f"datasets:json?data_files={place}/docs/a.jsonl&streaming=true"
    first, second = (to_document_or_error(record) for record in open_sources([address])[0].read())
    assert isinstance(first, Document) and first.images[0].load()
    assert isinstance(second, PicturePathError)
    (third,) = list(open_sources([address], place / "away")[0].read(1))
    assert to_document(third).images[0].load()
    assert open_sources(["datasets:owner/name"])[0].folder != Path()


def to_document_or_error(record: Any) -> Document | ValueError:
    try:
        return to_document(record)
    except ValueError as error:
        return error


@pytest.mark.skipif(not DATA.is_dir(), reason="there is no data beside the repository")
def test_data_is_read_without_the_flag() -> None:
    """The documents beside the repository, and the cases, have their pictures beside them."""
    paths = sorted([*DATA.glob("*/*/documents.jsonl"), *CASES.glob("*/*.jsonl"), *CASES.glob("tars/*.tar")])
    assert paths
    for path in paths:
        for record in open_sources([path])[0].read():
            for image in to_document(record).images:
                assert image.file is None or os.path.isfile(image.file)


def test_archives_may_have_absolute_names(tmp_path: Path) -> None:
    """Of files in them: a name is a name."""
    buffer = io.BytesIO()
    tiny.picture(0).save(buffer, format="PNG")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        sources.add(archive, "/etc/../../1.png", buffer.getvalue())
        sources.add(archive, "/etc/../../1.json", json.dumps(forms("/etc/../../1.png")[0]).encode())
    (document,) = read(tmp_path / "a.tar")
    assert isinstance(document, Document) and document.images[0].load().size == (4, 4)
