"""SHA-256 of files, as `sha256sum` and the hub give it."""

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
    """SHA-256 of files, computed by threads of their own from the moment the files are named.

    One processor is left to whoever named them, and four threads are as fast as disks are.

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
        """Hash a file behind those that were named before; a file that was named is not hashed again."""
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
    """SHA-256 of a file; reading ends early, with a hash of no meaning, when `stopped` is set.

    Raises:
        ValueError: the file came from the hub, which has another hash for it.
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
    """The hash under which the hub has a file, where its download left a record of it.

    Files of the hub's cache are links to files named by that hash. `hf download --local-dir` leaves a record of three
    lines beside the files: revision, hash, and the time of the download, behind which the file may have been changed.
    """
    name = path.resolve().name if path.is_symlink() else ""
    record = path.parent / ".cache" / "huggingface" / "download" / f"{path.name}.metadata"
    if record.is_file():
        lines = record.read_text(encoding="utf-8").splitlines()
        if len(lines) == 3 and path.stat().st_mtime <= float(lines[2]) + 1:
            name = lines[1]
    return name if re.fullmatch(r"[0-9a-f]{64}", name) else None
