"""Files that commands are given: documents to read, and where to write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from jam.documents import Document, read_documents


def read_all(paths: Sequence[Path]) -> Iterator[Document]:
    """The documents of several JSON-lines files, one by one."""
    return (document for path in paths for document in read_documents(path))


def count_documents(paths: Sequence[Path]) -> int:
    """How many there are. Raises ValueError, before any work is done, for a file that is missing, broken or empty."""
    counts = {path: sum(1 for _ in read_documents(path)) for path in paths}
    if empty := [str(path) for path, count in counts.items() if not count]:
        raise ValueError(f"{', '.join(empty)}: there are no documents in it; give JSON lines, one document a line")
    return sum(counts.values())


def require_folder_of(path: Path, option: str) -> None:
    """Raises ValueError if a file cannot be written for want of its folder: known before hours of work, not after."""
    if not path.parent.is_dir():
        raise ValueError(f"{option} {path}: there is no folder {path.parent}; make it first")
    if path.is_dir():
        raise ValueError(f"{option} {path}: this is a folder; name a file")
