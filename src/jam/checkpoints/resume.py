"""A folder that is made over several runs: what a killed run has finished is kept, and the next one goes on from there.

A result `model` is made in `.model.partial`, beside it:

    .model.partial/journal.json     which files of the result are whole, and what was planned
    .model.partial/model/           the result as far as it goes, without its config.json
    .model.partial/config.json      without which nothing opens the folder as a model

At the end the inner folder takes its name, and then its `config.json`. Whenever a run is killed, either nothing opens
as a model or the whole result does.
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
    """What is finished of a result, in a file that is rewritten whole at every entry.

    Attributes:
        shards: the whole files of the result: for each, a checksum of every tensor.
        hashes: SHA-256 of files that were read, by whatever name the writer gives them.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key
        self.shards: dict[str, dict[str, int]] = {}
        self.hashes: dict[str, str] = {}
        self._lock = threading.Lock()
        self._closed = False

    @classmethod
    def open(cls, path: Path, key: str) -> Journal:
        """The journal at `path`, or a new one when it has another key or cannot be read."""
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
        """Write no more: threads may still have something to record when the folder goes."""
        with self._lock:
            self._closed = True

    def _save(self) -> None:
        if self._closed:
            return
        write_json(self.path, {"key": self.key, "shards": self.shards, "hashes": self.hashes})


@dataclass(frozen=True)
class Workplace:
    """Where a result is made.

    Args:
        folder: holds everything but `config.json`; finished files of an earlier run are there already.
        beside: holds `config.json`.
        journal: what is finished.
    """

    folder: Path
    beside: Path
    journal: Journal


def place_beside(path: Path) -> Path:
    """The folder in which the result `path` is made."""
    return path.with_name(f".{path.name}.partial")


def require_free(path: Path) -> None:
    """Refuse a result that cannot be made, before the work that comes first; the end of a killed run is no hindrance.

    Raises:
        ValueError: the path exists, or another process makes it at this moment.
    """
    if place_beside(path).is_dir():
        with _locked(path):
            pass
    else:
        refuse_existing(path)


@contextmanager
def resumable_folder(path: Path, key: str, bytes_needed: int) -> Iterator[Workplace]:
    """Make the folder `path` so that a killed run can be gone on with; it appears whole.

    After an error or an interrupt the finished files stay for the next run too; when there are none, nothing stays.

    Args:
        key: of all that decides the result; finished files of a run with another key are thrown away.
        bytes_needed: size of the result; a disk that is too small is reported at once.

    Raises:
        ValueError: the path exists, another process makes it at this moment, or the disk is full.
    """
    with _locked(path) as place:
        journal = Journal.open(place / JOURNAL, key)
        work = Workplace(place / MODEL, place, journal)
        _keep_finished(work)
        try:
            there = sum(file.stat().st_size for file in work.folder.iterdir())
            if bytes_needed - there > free_bytes(path):
                raise disk_full(path, bytes_needed - there, _kept(work))
            yield work
            refuse_existing(path)  # someone else may have been faster
            journal.close()
            work.folder.rename(path)
            (place / LAST).rename(path / LAST)
            shutil.rmtree(place, ignore_errors=True)  # the result is whole, whatever becomes of it
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
    """The place of a result, which no other process works in meanwhile; the end of a killed run is brought in order.

    Raises:
        ValueError: the path exists, or another process makes it at this moment.
    """
    place = place_beside(path)
    if not place.is_dir():
        refuse_existing(path)  # with nothing to bring in order
    place.mkdir(parents=True, exist_ok=True)
    with only_one(place / LOCK, path):
        _settle(path)
        refuse_existing(path)
        yield place


def _settle(path: Path) -> None:
    """Bring the end of a killed run in order: between its last two steps, or just behind them.

    A folder that has its name and not yet its `config.json` is put back into its place, to be finished again.
    """
    place = place_beside(path)
    if not path.is_dir() or (place / MODEL).exists():
        return
    if (place / LAST).exists() and not (path / LAST).exists():
        path.rename(place / MODEL)
    elif not (place / LAST).exists():
        shutil.rmtree(place, ignore_errors=True)


def _keep_finished(work: Workplace) -> None:
    """Leave nothing in the place but finished files and their journal."""
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
