"""Documents for functions of the API: documents in memory, or files of every kind that `jam prepare` takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from jam.data import open_sources
from jam.data.converters import to_document
from jam.documents import Document

Given = Iterable[str | Path | Document]


def read_all(given: Given, allowed_media_path: Path | None = None) -> Iterator[Document]:
    """The documents in memory and in files, one by one.

    Raises:
        ValueError: a record is no document; the message has file and line.
    """
    for entry in given:
        if isinstance(entry, Document):
            yield entry
            continue
        for record in (record for source in open_sources([entry], allowed_media_path) for record in source.read()):
            try:
                yield to_document(record)
            except ValueError as error:
                raise ValueError(f"{record.where}{str(error).removeprefix(record.where)}") from None


def count_documents(given: Given, allowed_media_path: Path | None = None) -> int:
    """The number of documents. Raises ValueError for a file that is missing, broken or empty."""
    counts = [(entry, sum(1 for _ in read_all([entry], allowed_media_path))) for entry in given]
    if empty := [str(entry) for entry, count in counts if not count]:
        raise ValueError(f"{', '.join(empty)}: there are no documents in it")
    return sum(count for _, count in counts)
