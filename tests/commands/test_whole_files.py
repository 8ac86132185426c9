"""Pages, reports and documents are there as a whole or as they were, and a full disk is told in one line."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

from jam.api.model import Model
from jam.checkpoints.folders import is_disk_full, new_folder, write_json
from jam.cli import main
from jam.commands import generate
from jam.commands import told as told_by_cli
from jam.data import open_sources, prepare
from jam.demo import page as demo_page
from jam.documents import Document, Image, Text, to_markdown, write_documents
from jam.files import FileError, replacing, write_bytes, write_text
from support import faults, tiny
from support.writing import writer

OLD, NEW = "the old one", "the new one, which is longer"
QUESTION = "How do I draw it?"


def drawn(*colours: str) -> Document:
    return Document([part for colour in colours for part in (Text(colour), Image(pixels=picture(colour)))])


def picture(colour: str) -> PILImage.Image:
    return PILImage.new("RGB", (4, 4), colour)


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """The disk holds so many files more; of the next one a half is written."""

    def set_up(files: int) -> None:
        left = [files]

        def writing(exact: Callable[..., Any]) -> Callable[..., Any]:
            def write(path: Path, content: Any, *given: Any, **more: Any) -> None:
                left[0] -= 1
                exact(path, content[: len(content) // 2] if left[0] < 0 else content, *given, **more)
                if left[0] < 0:
                    faults.full_disk()

            return write

        for name in ("write_text", "write_bytes"):
            monkeypatch.setattr(Path, name, writing(getattr(Path, name)))

    return set_up


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- single files -----------------------------------------------------------------------------------------------------

WRITERS: dict[str, Callable[[Path], Any]] = {
    "text": lambda path: write_text(path, NEW),
    "bytes": lambda path: write_bytes(path, NEW.encode()),
    "report": lambda path: write_json(path, {"new": NEW}),
    "page": lambda path: drawn("red").save(path.with_suffix(".html")),
    "demo": lambda path: demo_page.write_page(path, REPORT, ANSWERS),
}
REPORT: dict[str, Any] = {"recipe": "short", "prompts": 0, "seconds": 1.0, "by_guidance_scale": [], "perplexity": {}}
REPORT |= {"max_logit_difference": 0.0}


class Answers:
    documents: tuple[Document, ...] = ()
    verdicts: tuple[Any, ...] = ()


ANSWERS: Any = Answers()


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_that_there_is_no_room_for_stays_as_it_was(tmp_path: Path, full: Any, kind: str) -> None:
    path = tmp_path / ("old.html" if kind == "page" else "old")
    path.write_text(OLD)
    full(0)
    with pytest.raises(OSError, match=rf"No space left on device: '{path}'"):
        WRITERS[kind](path)
    assert content(tmp_path) == {path.name: OLD.encode()}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_is_replaced(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("old.html" if kind == "page" else "old")
    path.write_text(OLD)
    WRITERS[kind](path)
    assert list(content(tmp_path)) == [path.name] and path.read_text() != OLD


def test_documents_that_cannot_be_made_leave_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "documents.jsonl"
    write_documents(path, [Document([Text(OLD)])])
    before = path.read_bytes()

    def documents() -> Iterator[Document]:
        yield Document([Text(NEW)])
        faults.full_disk()

    with pytest.raises(OSError, match="No space left on device"):
        write_documents(path, documents())
    assert content(tmp_path) == {"documents.jsonl": before}


def test_what_is_no_file_is_written_to(tmp_path: Path) -> None:
    """A pipe stays one, and so does a link; a folder is not replaced by a file."""
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_text(tmp_path / "pipe", NEW)
    assert os.read(reader, 100).decode() == NEW and (tmp_path / "pipe").is_fifo()
    os.close(reader)
    (tmp_path / "file").write_text(OLD)
    (tmp_path / "link").symlink_to("file")
    write_text(tmp_path / "link", NEW)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == NEW
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileError, match="is a folder, where a file is to be written"):
        write_text(tmp_path / "folder", NEW)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "link", "pipe"]


def test_a_folder_takes_the_place_of_another_or_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").touch()
    (tmp_path / "file").touch()
    for name in ("folder", "file"):
        with replacing(tmp_path / name) as new:
            new.mkdir()
            (new / "new").touch()
        assert [path.name for path in (tmp_path / name).iterdir()] == ["new"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


# --- Markdown ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", [0, 1, 2, 3])
def test_markdown_and_its_pictures_stay_as_they_were(tmp_path: Path, full: Any, room: int) -> None:
    drawn("red", "green").save(tmp_path / "page.md")
    (tmp_path / "page_images" / "notes.txt").write_text("mine")
    before = content(tmp_path)
    assert sorted(before) == ["page.md", "page_images/01.png", "page_images/02.png", "page_images/notes.txt"]
    full(room)
    if room < 3:  # a text and two pictures
        with pytest.raises(OSError, match=r"No space left on device: '.*page(\.md|_images)'"):
            drawn("blue", "white").save(tmp_path / "page.md")
        assert content(tmp_path) == before
    else:
        drawn("blue", "white").save(tmp_path / "page.md")
        after = content(tmp_path)
        assert after.keys() == before.keys() and after["page_images/notes.txt"] == b"mine"
        assert all(after[name] != before[name] for name in list(before)[:3] if name != "page_images/notes.txt")


def test_a_first_page_that_there_is_no_room_for_leaves_nothing(tmp_path: Path, full: Any) -> None:
    full(2)
    with pytest.raises(OSError, match="No space left on device"):
        drawn("blue", "white").save(tmp_path / "page.md")
    assert not list(tmp_path.iterdir())


def test_pictures_that_cannot_be_read_cost_no_page(tmp_path: Path) -> None:
    drawn("red").save(tmp_path / "page.md")
    before = content(tmp_path)
    broken = Document([*drawn("blue").content, Image(data=b"no picture")])
    for name in ("page.md", "page.html"):
        with pytest.raises(ValueError):
            broken.save(tmp_path / name)
    with pytest.raises(ValueError):
        to_markdown(broken, tmp_path / "page_images")
    assert content(tmp_path) == before


# --- commands ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return writer(tmp_path_factory.mktemp("writer") / "cross")


@pytest.mark.parametrize("name", ["page.html", "page.md"])
def test_jam_generate_keeps_the_old_page(
    model: Model, tmp_path: Path, full: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any, name: str
) -> None:
    monkeypatch.setattr(generate, "load_chosen", lambda *_: model)
    drawn("red").save(tmp_path / name)
    before = content(tmp_path)
    full(1 if name == "page.md" else 0)
    command = ["generate", str(model.folder), QUESTION, "--max-new-tokens", "24", "--min-images", "1"]
    assert main([*command, "--out", str(tmp_path / name)]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("jam generate: the disk is full: cannot write ") and last.endswith(
        "; make room or choose another place"
    )
    assert content(tmp_path) == before


def test_jam_convert_documents_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "records.jsonl").write_text("".join(json.dumps({"text": f"Number {n}."}) + "\n" for n in range(9)))
    opened = Path.open

    def full(path: Path, *given: Any, **more: Any) -> Any:
        return opened(path if "records" in path.name else Path("/dev/full"), *given, **more)

    monkeypatch.setattr(Path, "open", full)
    command = ["convert-documents", str(tmp_path / "records.jsonl"), "--recipe", "text", "--out"]
    assert main([*command, str(tmp_path / "texts.jsonl")]) == 1
    said = capsys.readouterr().err
    assert said == f"jam convert-documents: the disk is full: cannot write {tmp_path}/texts.jsonl; " + (
        "make room or choose another place\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["records.jsonl"]


@pytest.mark.parametrize(("blocks", "from_file"), [(0, True), (1, False), (1, True)])
def test_a_preparation_says_what_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: int, from_file: bool
) -> None:
    """Nothing in the first block, and nothing of documents that are not in a file; else what was done."""
    codec, rng = tiny.codec(), np.random.default_rng(0)
    documents = [tiny.random_document(rng) for _ in range(150)]
    write_documents(tmp_path / "documents.jsonl", documents)
    calls: list[Path] = []

    def full(path: Path, values: Any) -> None:
        calls.append(path)
        if len(calls) > blocks:
            faults.full_disk()
        write_json(path, values)

    monkeypatch.setattr(sys.modules["jam.data.prepare"], "write_json", full)
    stays = blocks > 0 and from_file
    said = "what was prepared is kept; the same command goes on from there" if stays else "nothing was left behind"
    sources = open_sources([str(tmp_path / "documents.jsonl")]) if from_file else documents
    with pytest.raises(ValueError, match=rf"the disk is full: cannot write .*shards: .*\({said}\)"):
        list(prepare(sources, codec, tmp_path / "shards"))
    assert (tmp_path / ".shards.partial").exists() == stays


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError("4096 requested and 128 written"),  # numpy
        Exception("No space left on device (os error 28)"),  # tokenizers
        RuntimeError("[enforce fail] . file write failed: No space left on device"),  # torch
        shutil.Error([("a", "b", "[Errno 28] No space left on device: 'b'")]),
    ],
)
def test_a_full_disk_is_known_by_what_libraries_say(tmp_path: Path, error: Exception) -> None:
    assert is_disk_full(error) and not is_disk_full(OSError(errno.EACCES, "Permission denied"))
    with (
        pytest.raises(ValueError, match=r"the disk is full: .*\(the last checkpoint is there\)"),
        new_folder(tmp_path / "made", kept="the last checkpoint is there"),
    ):
        raise error
    assert not list(tmp_path.iterdir())


def test_a_full_disk_without_a_name() -> None:
    said = told_by_cli(OSError(errno.ENOSPC, "No space left on device"))
    assert said == "the disk is full: make room or choose another place"


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "page.html" / "own").mkdir(parents=True)
    with pytest.raises(FileError, match=r"page\.html is a folder, where a file is to be written; move it away"):
        write_text(tmp_path / "page.html", "new")
    assert [path.name for path in tmp_path.rglob("*")] == ["page.html", "own"]


def test_a_pipe_that_nobody_reads_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "page.html")
    with pytest.raises(FileError, match=r"page\.html is a pipe that nobody reads; remove it, or choose another place"):
        write_text(tmp_path / "page.html", "new")
