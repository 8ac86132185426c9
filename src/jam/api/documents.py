"""The documents that are given to a function of the API: files of every kind that `jam prepare` takes, or in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from jam.data import open_sources
from jam.data.converters import to_document
from jam.documents import Document

Given = Iterable[str | Path | Document]


def read_all(given: Given, allowed_media_path: Path | None = None) -> Iterator[Document]:
    """The documents in files, and those that are given themselves, one by one.

    Raises:
        ValueError: a record that is no document, with file and line.
    """
    for one in given:
        if isinstance(one, Document):
            yield one
            continue
        for record in (record for source in open_sources([one], allowed_media_path) for record in source.read()):
            try:
                yield to_document(record)
            except ValueError as error:
                raise ValueError(f"{record.where}{str(error).removeprefix(record.where)}") from None


def count_documents(given: Given, allowed_media_path: Path | None = None) -> int:
    """How many there are. Raises ValueError, before any work is done, for a file that is missing, broken or empty."""
    counts = [(one, sum(1 for _ in read_all([one], allowed_media_path))) for one in given]
    if empty := [str(one) for one, count in counts if not count]:
        raise ValueError(f"{', '.join(empty)}: there are no documents in it")
    return sum(count for _, count in counts)
