"""Resumable folders: the finished files of a killed run stay, and the next run continues with them.

A result `model` grows in `.model.partial`, beside it:

    .model.partial/journal.json     the finished files of the result, and the key of the run
    .model.partial/model/           the finished part of the result, without its config.json
    .model.partial/config.json      without which nothing opens the folder as a model

At the end, the inner folder moves to `model`, and then `config.json` moves into `model`. Whenever a run is killed,
either nothing opens as a model, or the complete result does.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from jam.checkpoints.folders import NOTHING, disk_full, free_bytes, is_disk_full, refuse_existing, write_json
from jam.checkpoints.locks import only_one
from jam.files import FileError, read_json

JOURNAL, MODEL, LAST, LOCK = "journal.json", "model", "config.json", "lock"


class Journal:
    """The finished parts of a result, in a file that every new entry replaces.

    Attributes:
        shards: checksums of all tensors of each finished file of the result.
        hashes: SHA-256 of source files, by names that the writer chooses.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key
        self.shards: dict[str, dict[str, int]] = {}
        self.hashes: dict[str, str] = {}
        self._lock = threading.Lock()
        self._closed = False

    @classmethod
    def open(cls, path: Path, key: str) -> Journal:
        """The journal at `path`, or a new journal if the file has another key or cannot be read."""
        journal = cls(path, key)
        try:
            found = read_json(path, {})
            if found.get("key") == key:
                journal.shards, journal.hashes = found["shards"], found["hashes"]
        except (FileError, KeyError):
            pass
        return journal

    def record_shard(self, name: str, checksums: dict[str, int]) -> None:
        with self._lock:
            self.shards[name] = checksums
            self._save()

    def record_hash(self, name: str, sha256: str) -> None:
        with self._lock:
            self.hashes[name] = sha256
            self._save()

    def close(self) -> None:
        """Stop writing, since threads may still record entries when the folder is removed."""
        with self._lock:
            self._closed = True

    def _save(self) -> None:
        if self._closed:
            return
        write_json(self.path, {"key": self.key, "shards": self.shards, "hashes": self.hashes})


@dataclass(frozen=True)
class Workplace:
    """The folders in which a result grows.

    Args:
        folder: folder of everything but `config.json`, with finished files of an earlier run.
        beside: folder of `config.json`.
        journal: the finished parts.
    """

    folder: Path
    beside: Path
    journal: Journal


def place_beside(path: Path) -> Path:
    """The folder in which the result `path` grows."""
    return path.with_name(f".{path.name}.partial")


def require_free(path: Path) -> None:
    """Refuse a result that cannot be made, before other work begins; files of a killed run are allowed.

    Raises:
        ValueError: the path exists, or another process is making it.
    """
    if place_beside(path).is_dir():
        with _locked(path):
            pass
    else:
        refuse_existing(path)


@contextmanager
def resumable_folder(path: Path, key: str, bytes_needed: int) -> Iterator[Workplace]:
    """Yield the workplace of the folder `path`, which appears complete when the block ends; a killed run can resume.

    After an error or an interrupt, finished files stay for the next run; without finished files, nothing stays.

    Args:
        key: text of everything that decides the result; finished files of a run with another key are removed.
        bytes_needed: size of the result; a disk that is too small is reported at once.

    Raises:
        ValueError: the path exists, another process is making it, or the disk is full.
    """
    with _locked(path) as place:
        journal = Journal.open(place / JOURNAL, key)
        work = Workplace(place / MODEL, place, journal)
        _keep_finished(work)
        try:
            finished = sum(file.stat().st_size for file in work.folder.iterdir())
            if bytes_needed - finished > free_bytes(path):
                raise disk_full(path, bytes_needed - finished, _kept(work))
            yield work
            refuse_existing(path)  # another process may have been faster
            journal.close()
            work.folder.rename(path)
            (place / LAST).rename(path / LAST)
            shutil.rmtree(place, ignore_errors=True)  # the result is complete even if this fails
        except BaseException as error:
            kept = _kept(work)
            journal.close()
            if not journal.shards:
                shutil.rmtree(place, ignore_errors=True)
            if is_disk_full(error):
                raise disk_full(path, bytes_needed, kept) from error
            raise


@contextmanager
def _locked(path: Path) -> Iterator[Path]:
    """Yield the place of a result, locked and tidied after a killed run.

    Raises:
        ValueError: the path exists, or another process is making it.
    """
    place = place_beside(path)
    if not place.is_dir():
        refuse_existing(path)  # before anything is written
    place.mkdir(parents=True, exist_ok=True)
    with only_one(place / LOCK, path):
        _settle(path)
        refuse_existing(path)
        yield place


def _settle(path: Path) -> None:
    """Tidy up after a run that was killed between its last two steps, or just after them.

    A result without its `config.json` moves back into its place, to be finished again.
    """
    place = place_beside(path)
    if not path.is_dir() or (place / MODEL).exists():
        return
    if (place / LAST).exists() and not (path / LAST).exists():
        path.rename(place / MODEL)
    elif not (place / LAST).exists():
        shutil.rmtree(place, ignore_errors=True)


def _keep_finished(work: Workplace) -> None:
    """Remove everything from the place but finished files and their journal."""
    work.folder.mkdir(exist_ok=True)
    for entry in (*work.folder.iterdir(), work.beside / LAST):
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name not in work.journal.shards:
            entry.unlink(missing_ok=True)


def _kept(work: Workplace) -> str:
    count = len(work.journal.shards)
    if not count:
        return NOTHING
    return f"{count} finished files are kept in {work.beside}, and the same command goes on from there"
