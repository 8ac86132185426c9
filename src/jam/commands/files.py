"""Files that commands are given: documents to read, and where to write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from jam.console import Console
from jam.data import open_sources
from jam.data.converters import to_document
from jam.documents import Document


def read_all(paths: Sequence[Path], allowed_media_path: Path | None = None) -> Iterator[Document]:
    """The documents of several files, of every kind that `jam prepare` takes, one by one.

    Raises:
        ValueError: a record that is no document, with file and line.
    """
    for record in (record for source in open_sources(paths, allowed_media_path) for record in source.read()):
        try:
            yield to_document(record)
        except ValueError as error:
            raise ValueError(f"{record.where}{str(error).removeprefix(record.where)}") from None


def count_documents(paths: Sequence[Path], allowed_media_path: Path | None = None) -> int:
    """How many there are. Raises ValueError, before any work is done, for a file that is missing, broken or empty."""
    counts = {path: sum(1 for _ in read_all([path], allowed_media_path)) for path in paths}
    if empty := [str(path) for path, count in counts.items() if not count]:
        raise ValueError(f"{', '.join(empty)}: there are no documents in it")
    return sum(counts.values())


def say_left_out(console: Console, reasons: Sequence[str]) -> None:
    """Name every document that is not used, and how many there are."""
    for reason in reasons:
        console.print(f"left out: {reason}", soft_wrap=True, markup=False)
    if reasons:
        console.print(f"{len(reasons)} documents were left out: see docs/data.md, Too long")


def require_folder_of(path: Path, option: str) -> None:
    """Raises ValueError if a file cannot be written for want of its folder: known before hours of work, not after."""
    if not path.parent.is_dir():
        raise ValueError(f"{option} {path}: there is no folder {path.parent}; make it first")
    if path.is_dir():
        raise ValueError(f"{option} {path}: this is a folder; name a file")
