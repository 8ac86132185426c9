"""Folders and files that appear complete or not at all."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jam.files import rename_over, write_text

TOKENIZER_FOLDER = "tokenizer"
# Messages of libraries in C++ and Rust, and of numpy, about a full disk.
FULL = rf"No space left on device|\(os error {errno.ENOSPC}\)|^\d+ requested and \d+ written$"
NOTHING = "nothing was left behind"  # remains of an attempt, in the message about a full disk
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")


@contextmanager
def new_folder(
    path: str | Path, overwrite: bool = False, bytes_needed: int | None = None, kept: str = NOTHING
) -> Iterator[Path]:
    """Yield an empty temporary sibling of `path`, which is renamed to `path` when the block ends without an error.

    An error or an interrupt removes the temporary folder, so `path` never holds half a model.

    Args:
        overwrite: replace an existing folder, at the very end; otherwise an existing path is an error.
        bytes_needed: size of the contents, if known, so that a disk that is too small is reported at once.
        kept: remains of the attempt, for a message about a full disk.

    Raises:
        ValueError: the path exists, or the disk is full.
    """
    path = Path(os.path.abspath(path))
    if not overwrite:
        refuse_existing(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if bytes_needed is not None and bytes_needed > free_bytes(path):
        raise disk_full(path, bytes_needed, kept)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)  # left by a killed process that had our id
    partial.mkdir()
    try:
        yield partial
        if not overwrite:
            refuse_existing(path)  # another process may have been faster
        rename_over(partial, path)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if is_disk_full(error):
            raise disk_full(path, bytes_needed, kept) from error
        raise


def copy_folder(source: Path, out: Path) -> None:
    """Copy the files of a folder, and of its subfolders, to the new folder `out`.

    Links are followed (the hub's cache has its files elsewhere), and the copies are writable.
    """
    out.mkdir()
    for path in source.iterdir():
        if path.is_dir():
            copy_folder(path, out / path.name)
        else:
            shutil.copyfile(path, out / path.name)


def tokenizer_folder(folder: str | Path) -> Path | None:
    """`folder/tokenizer`, else `folder` itself; None if neither holds a tokenizer."""
    places = (Path(folder) / TOKENIZER_FOLDER, Path(folder))
    return next((place for place in places if any((place / name).is_file() for name in TOKENIZER_FILES)), None)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON; the file is replaced completely or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def sync(path: Path) -> None:
    """Wait until the contents of a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def format_bytes(count: float) -> str:
    """`count` bytes for people, e.g. "13.4 GB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.4g} TB"


def refuse_existing(path: str | Path) -> None:
    """Raises ValueError if `path` exists."""
    if os.path.lexists(path):
        raise ValueError(f"{path} exists; choose another --out or remove it")


def is_disk_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return re.search(FULL, str(error)) is not None


def free_bytes(path: Path) -> int:
    """Bytes that can still be written beside `path`."""
    return shutil.disk_usage(path.parent).free


def disk_full(path: Path, bytes_needed: int | None, kept: str = NOTHING) -> ValueError:
    """The error to raise; `kept` names the remains of the attempt."""
    needed = f"{format_bytes(bytes_needed)} needed" if bytes_needed is not None else "more needed"
    return ValueError(
        f"the disk is full: cannot write {path}: {needed}, {format_bytes(free_bytes(path))} free; make room or choose "
        f"another place ({kept})"
    )
