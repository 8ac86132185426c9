"""SHA-256 of files, as `sha256sum` and the hub give it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from threading import Event

PIECE = 2**20  # bytes


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
