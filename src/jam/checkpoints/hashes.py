"""SHA-256 of files, as from `sha256sum` and the hub."""

from __future__ import annotations

import hashlib
import os
import re
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event
from types import TracebackType

PIECE = 2**24  # bytes; a thread asks for Python's lock between two pieces, which an import holds for milliseconds


class Hashes:
    """SHA-256 of files, which threads compute from the moment the files are named.

    One processor is left to the caller, and four threads are as fast as disks.

    >>> path = Path("parent/config.json")
    >>> with Hashes() as hashes:
    ...     begun = hashes.begin(path)
    ...     len(hashes.of(path))
    64
    """

    def __init__(self) -> None:
        self._stopped = Event()
        self._pool = ThreadPoolExecutor(max(1, min(4, (os.cpu_count() or 1) - 1)))
        self._found: dict[Path, Future[str]] = {}

    def begin(self, path: Path) -> Future[str]:
        """The future hash of a file, after the files that were named before; each file is hashed once."""
        if path not in self._found:
            self._found[path] = self._pool.submit(sha256_of, path, self._stopped)
        return self._found[path]

    def of(self, path: Path) -> str:
        """The hash of a file; waits for it. Raises ValueError for a damaged file."""
        return self.begin(path).result()

    def __enter__(self) -> Hashes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._pool.shutdown(cancel_futures=True)


def sha256_of(path: Path, stopped: Event | None = None) -> str:
    """SHA-256 of a file, or "" if `stopped` is set meanwhile.

    Raises:
        ValueError: the file came from the hub, which has another hash for the file.
    """
    digest, buffer = hashlib.sha256(), memoryview(bytearray(PIECE))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
            if stopped is not None and stopped.is_set():
                return ""
    found, published = digest.hexdigest(), published_sha256(path)
    if published not in (None, found):
        raise ValueError(f"{path} is damaged: its SHA-256 is {found}, the hub's is {published}; fetch it again")
    return found


def published_sha256(path: Path) -> str | None:
    """The hub's hash of a file, if the download recorded the hash.

    Files of the hub's cache are links to files named by their hash. `hf download --local-dir` writes a record of three
    lines beside the files: revision, hash, and time of the download, after which the file may have changed.
    """
    name = path.resolve().name if path.is_symlink() else ""
    record = path.parent / ".cache" / "huggingface" / "download" / f"{path.name}.metadata"
    if record.is_file():
        lines = record.read_text(encoding="utf-8").splitlines()
        if len(lines) == 3 and path.stat().st_mtime <= float(lines[2]) + 1:
            name = lines[1]
    return name if re.fullmatch(r"[0-9a-f]{64}", name) else None
