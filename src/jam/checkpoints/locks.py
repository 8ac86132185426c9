"""Locks, so that one process at a time makes a result."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from jam.files import FileError


@contextmanager
def only_one(lock: Path, result: Path) -> Iterator[None]:
    """Hold the file `lock` while the block makes `result`; the system frees the lock even if the process is killed.

    Raises:
        ValueError: another process holds the lock, or `lock` is no file: a folder, or a link.
    """
    try:
        held = FileLock(lock, timeout=0, thread_local=False).acquire()
    except Timeout:
        raise ValueError(f"another process is making {result}; wait for it, or choose another --out") from None
    except OSError as error:
        if not os.path.lexists(lock):
            raise
        raise FileError(f"{lock} is no file to lock ({error.strerror}); remove it") from None
    with held:
        yield
