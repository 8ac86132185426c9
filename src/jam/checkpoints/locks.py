"""One process at a time makes a result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def only_one(lock: Path, result: Path) -> Iterator[None]:
    """Hold the file `lock` while the block makes `result`; it is free again when the process ends, however it does.

    Raises:
        ValueError: another process holds it.
    """
    try:
        held = FileLock(lock, timeout=0, thread_local=False).acquire()
    except Timeout:
        raise ValueError(f"another process is making {result}; wait for it, or choose another --out") from None
    with held:
        yield
