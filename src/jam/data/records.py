"""Raw records of any source, in order, from any place on: JSON lines, Parquet, WebDataset tars, `datasets`.

One process reads records, which is cheap; workers interpret them (`jam.data.converters`).
"""

from __future__ import annotations

import copy
import gzip
import importlib
import os
import posixpath
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qsl

from jam.data.tables import rows_of
from jam.data.tar_files import Member, content_of, members
from jam.documents import MAX_BYTES, WEB, Document, JsonError, json_records, require_media_path
from jam.files import open_regular, reason

LINES, TABLES, TARS = (".jsonl", ".json", ".jsonl.gz", ".json.gz"), (".parquet",), (".tar", ".tar.gz", ".tgz")
HUB = "datasets:"
GZIP = b"\x1f\x8b"  # first bytes of a packed file
MAX_SAMPLE = MAX_BYTES  # bytes of a row, or of all files of a sample; each file counts `EACH` bytes more
EACH = 2**10
KEPT = 2**16  # number of latest files that a link may lead to
TEXTS = {"true": True, "false": False}
# Arguments of `load_dataset` that its builder does not take.
LOADING = ("split", "streaming", "num_proc", "keep_in_memory", "save_infos", "verification_mode")


@dataclass(frozen=True)
class Record:
    """One raw document.

    Args:
        source: file or data set.
        key: line, row or key within the source.
        value: a JSON line, the columns of a row, the files of a sample by extension, a document, or an error.
        share: share of the source that is read up to this record, or None if the source's size is unknown.
        folder: folder of the record's pictures, or None if the record contains its pictures.
        allowed_media_path: another folder below which pictures may be.
    """

    source: str
    key: str
    value: bytes | dict[str, Any] | Document | ValueError
    share: float | None = None
    folder: Path | None = None
    allowed_media_path: Path | None = None

    @property
    def where(self) -> str:
        return f"{self.source}:{self.key}: "


class Records(ABC):
    """A source. `size` is its weight among the sources, to estimate the time left.

    The records' pictures are in `folder` (None: in the records), or below `allowed_media_path`.
    """

    name: str
    size: float = 1.0
    folder: Path | None = None
    allowed_media_path: Path | None = None

    @abstractmethod
    def read(self, skip: int = 0) -> Iterator[Record]:
        """All records but the first `skip`. Raises ValueError, with the source's name, if it cannot be read."""

    def identity(self) -> Any:
        """A value that changes when the source changes, or None if a run with this source cannot resume."""
        return None

    def record(self, key: object, value: Any, share: float | None) -> Record:
        return Record(self.name, str(key), value, share, self.folder, self.allowed_media_path)


class Files(Records):
    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise ValueError(f"{path}: no such file of documents")
        self.path, self.name, self.folder = path, str(path), path.parent
        with open_regular(path) as file:
            self.size = file.seek(0, os.SEEK_END)
        if not self.size:
            raise ValueError(f"{path}: there are no documents in it; the file is empty")

    def identity(self) -> Any:
        status = self.path.stat()
        return [self.name, status.st_size, status.st_mtime_ns]

    def broken(self, error: Exception, after: str) -> ValueError:
        return ValueError(
            f"{self.path}: cannot be read after {after} ({reason(error)}); is it whole? write or fetch it again"
        )


class JsonLines(Files):
    """One document a line, or an array of documents; ``.gz`` is unpacked."""

    def read(self, skip: int = 0) -> Iterator[Record]:
        key = "0"
        with open_regular(self.path) as raw:
            file: Any = gzip.GzipFile(fileobj=raw) if self.path.suffix == ".gz" else raw
            try:
                for key, record in islice(json_records(file), skip, None):
                    yield self.record(key, record, raw.tell() / self.size)
            except Exception as error:  # readers raise any error for a damaged archive
                raise self.broken(error, f"{'record' if isinstance(error, JsonError) else 'line'} {key}") from None


class Parquet(Files):
    """One document a row."""

    def read(self, skip: int = 0) -> Iterator[Record]:
        parquet = _extra("pyarrow.parquet", "Parquet files")
        row = 0
        try:
            with open_regular(self.path) as file, parquet.ParquetFile(file) as table:
                total = table.metadata.num_rows
                for number in range(table.num_row_groups):
                    group = table.metadata.row_group(number)
                    if skip >= row + group.num_rows:
                        row += group.num_rows
                        continue
                    for value in rows_of(table, number, MAX_SAMPLE):
                        row += 1
                        if row > skip:
                            yield self.record(row, value, row / total)
        except Exception as error:  # readers raise any error for a damaged table
            raise self.broken(error, f"row {row}") from None


class Tar(Files):
    """A WebDataset: files that share a name up to the first dot are a sample; the rest of a name is the file's key.

    A link stands for its target, which must come before the link. Files whose names begin with a dot are skipped.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.folder = None

    def read(self, skip: int = 0) -> Iterator[Record]:
        key, sample, left = "", dict[str, Any](), MAX_SAMPLE
        before: dict[str, Member] = {}
        with open_regular(self.path) as raw:
            is_packed = raw.read(len(GZIP)) == GZIP
            raw.seek(0)
            file: Any = gzip.GzipFile(fileobj=raw) if is_packed else raw
            try:
                for member in members(file):
                    folder, _, name = posixpath.normpath(member.name).rpartition("/")
                    stem, _, extension = name.partition(".")
                    if not stem:
                        continue
                    stem = f"{folder}/{stem}" if folder else stem
                    if stem != key and sample:
                        if not skip:
                            yield self.record(key, sample, raw.tell() / self.size)
                        skip = max(0, skip - 1)
                        sample, left = {}, MAX_SAMPLE
                    key, extension = stem, extension.lower()
                    target = _target(member, before)
                    _keep(before, posixpath.normpath(member.name), target)
                    left -= target.size + EACH
                    if extension in sample:
                        sample[extension] = ValueError(f"the sample has two files .{extension}; each needs its own")
                    elif skip:
                        sample[extension] = b""
                    else:
                        sample[extension] = _content(file, target, left)
            except Exception as error:  # readers raise any error for a damaged archive
                raise self.broken(error, f"sample {key!r}") from None
        if sample and not skip:
            yield self.record(key, sample, 1.0)


class HubDataset(Records):
    """A data set of `datasets`: ``datasets:NAME?split=train&streaming=true&...``, or a folder that `datasets` saved.

    After the question mark come arguments of `datasets.load_dataset`.
    """

    def __init__(self, address: str) -> None:
        self.name = address
        self.dataset, query = address.removeprefix(HUB).split("?", 1) if "?" in address else (address[len(HUB) :], "")
        self.options: dict[str, Any] = {key: TEXTS.get(value, value) for key, value in parse_qsl(query)}
        if "trust_remote_code" in self.options:
            raise ValueError(f"{address}: a data set's own code is never run; leave trust_remote_code out")
        self.options.setdefault("split", "train")
        self.folder = self._folder()

    def _folder(self) -> Path:
        """The folder of the data set's files; for a data set of the hub, the cache of downloads."""
        named = self.options.get("data_dir") or self.options.get("data_files")
        files = Path(self.dataset)
        if not files.exists() and isinstance(named, str) and not WEB.match(named):
            files = Path(re.split(r"[*?\[]", named, maxsplit=1)[0])
        elif not files.exists():
            return Path(_extra("huggingface_hub.constants", "data sets").HF_HUB_CACHE)
        return files if files.is_dir() else files.parent

    @property
    def _is_saved(self) -> bool:
        return any((Path(self.dataset) / name).is_file() for name in ("state.json", "dataset_dict.json"))

    def read(self, skip: int = 0) -> Iterator[Record]:
        library = _extra("datasets", "data sets")
        try:
            if self._is_saved:
                rows = library.load_from_disk(self.dataset)
                rows = rows[self.options["split"]] if isinstance(rows, dict) else rows
            else:
                rows = library.load_dataset(self.dataset, **self.options)
        except Exception as error:  # from the library, its readers or the network
            raise self._unopened(error) from None
        total = len(rows) if hasattr(rows, "__len__") else None
        if total is not None and skip >= total:
            return
        for column, feature in (rows.features or {}).items():
            if (stored := _stored(feature, library.Image)) != feature:
                rows = rows.cast_column(column, stored)
        number = skip
        try:
            for number, value in enumerate(rows.skip(skip) if skip else rows, skip + 1):
                yield self.record(number, dict(value), number / total if total else None)
        except Exception as error:
            raise ValueError(f"{self.name}: cannot be read after row {number} ({reason(error)})") from None

    def identity(self) -> Any:
        """Sizes and dates of a saved folder's files; otherwise the dates or hashes that `datasets` has of files."""
        if self._is_saved:
            files = sorted(path for path in Path(self.dataset).rglob("*") if path.is_file())
            return [self.name, [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]]
        options = {key: value for key, value in self.options.items() if key not in LOADING}
        try:
            builder = _extra("datasets", "data sets").load_dataset_builder(self.dataset, **options)
        except Exception as error:
            raise self._unopened(error) from None
        origins = {str(split): files.origin_metadata for split, files in (builder.config.data_files or {}).items()}
        return [self.name, origins] if origins else None

    def _unopened(self, error: Exception) -> ValueError:
        return ValueError(f"{self.name}: `datasets` cannot open it ({reason(error)})")


class Documents(Records):
    """Documents in memory."""

    name = "documents"

    def __init__(self, documents: Iterable[Document]) -> None:
        self.documents = documents

    def read(self, skip: int = 0) -> Iterator[Record]:
        total = len(self.documents) if isinstance(self.documents, Sequence) else None
        for number, document in enumerate(islice(self.documents, skip, None), skip + 1):
            yield self.record(number, document, number / total if total else None)


def open_sources(names: Sequence[str | Path], allowed_media_path: str | Path | None = None) -> list[Records]:
    """The sources with these names: files, folders of files, and ``datasets:...``.

    Args:
        allowed_media_path: folder below which files of pictures may be, besides the folder of their source.

    Raises:
        ValueError: a file or folder does not exist, or is of an unknown kind.
    """
    allowed = require_media_path(allowed_media_path)
    kinds: list[tuple[tuple[str, ...], type[Files]]] = [(LINES, JsonLines), (TABLES, Parquet), (TARS, Tar)]
    known = tuple(suffix for suffixes, _ in kinds for suffix in suffixes)
    sources: list[Records] = []
    for name in map(str, names):
        if name.startswith(HUB):
            sources.append(HubDataset(name))
            continue
        path = Path(name)
        files = sorted(file for file in path.iterdir() if file.name.endswith(known)) if path.is_dir() else [path]
        if not files:
            raise ValueError(f"{path}: there are no documents in this folder; files end in {', '.join(known)}")
        for file in files:
            kind = next((kind for suffixes, kind in kinds if file.name.endswith(suffixes)), None)
            if kind is None and file.exists():
                raise ValueError(f"{file}: not a known kind of file of documents; known: {', '.join(known)}")
            sources.append((kind or JsonLines)(file))
    for source in sources:
        source.allowed_media_path = allowed
    return sources


def _target(member: Member, before: dict[str, Member]) -> Member:
    """The earlier member that a link leads to; otherwise the member itself."""
    if member.link is None:
        return member
    folder = posixpath.dirname(member.name) if member.is_symbolic else ""
    return before.get(posixpath.normpath(posixpath.join(folder, member.link)), member)


def _keep(before: dict[str, Member], name: str, member: Member) -> None:
    """Map `name` to `member`, and drop the oldest entry if there are too many."""
    before.pop(name, None)
    before[name] = member
    if len(before) > KEPT:
        del before[next(iter(before))]


def _content(file: BinaryIO, member: Member, left: int) -> bytes | ValueError:
    """The content of a sample's file, or an error; `left` is the bytes that remain of `MAX_SAMPLE` after the file."""
    if member.link is not None:
        return ValueError(f"the file {member.name:.80} is a link to {member.link:.80}, which is not before it")
    if left < 0:
        return ValueError(
            f"the sample's files up to {member.name:.80} have {MAX_SAMPLE - left} bytes, more than {MAX_SAMPLE}"
        )
    return content_of(file, member)


def _stored(feature: Any, image: Any) -> Any:
    """The type of a column, with pictures left encoded; the workers decode them."""
    if isinstance(feature, image):
        return image(decode=False)
    if isinstance(feature, dict):
        return {name: _stored(part, image) for name, part in feature.items()}
    if hasattr(feature, "feature"):
        feature = copy.copy(feature)
        feature.feature = _stored(feature.feature, image)
    return feature


def _extra(module: str, what: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ValueError(f"{what} are read by an optional part: pip install 'jam-fusion[data]'") from None
