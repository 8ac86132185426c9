"""Raw records of any source, in order, from any place on: JSON lines, Parquet, WebDataset tars, `datasets`.

Reading is cheap and done by one process; what a record says (`jam.data.converters`) is found out by the workers.
"""

from __future__ import annotations

import copy
import gzip
import importlib
import posixpath
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from jam.documents import Document, JsonError, json_records
from jam.files import reason

LINES, TABLES, TARS = (".jsonl", ".json", ".jsonl.gz", ".json.gz"), (".parquet",), (".tar", ".tar.gz", ".tgz")
HUB = "datasets:"
TEXTS = {"true": True, "false": False}
# What `load_dataset` takes and its builder does not.
LOADING = ("split", "streaming", "num_proc", "keep_in_memory", "save_infos", "verification_mode")


@dataclass(frozen=True)
class Record:
    """One raw document.

    Args:
        source: file or data set.
        key: line, row or key within it.
        value: a JSON line, the columns of a row, the files of a sample by extension, or a document.
        share: how much of the source is read up to here; None where its size is not known.
    """

    source: str
    key: str
    value: bytes | dict[str, Any] | Document
    share: float | None = None

    @property
    def where(self) -> str:
        return f"{self.source}:{self.key}: "


class Records(ABC):
    """A source. `size` weighs it against the others for the time left; `identity` says whether it is still the same."""

    name: str
    size: float = 1.0

    @abstractmethod
    def read(self, skip: int = 0) -> Iterator[Record]:
        """All records but the first `skip`. Raises ValueError that names the source where it cannot be read."""

    def identity(self) -> Any:
        """What can be compared with an earlier run's; None: a run with this source cannot be gone on with."""
        return None


class Files(Records):
    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise ValueError(f"{path}: no such file of documents")
        self.path, self.name = path, str(path)
        self.size = path.stat().st_size
        if not self.size:
            raise ValueError(f"{path}: there are no documents in it; the file is empty")

    def identity(self) -> Any:
        status = self.path.stat()
        return [self.name, status.st_size, status.st_mtime_ns]

    def broken(self, error: Exception, after: str) -> ValueError:
        return ValueError(
            f"{self.path}: cannot be read behind {after} ({reason(error)}); is it whole? write or fetch it again"
        )


class JsonLines(Files):
    """One document a line, or an array of documents; ``.gz`` is unpacked."""

    def read(self, skip: int = 0) -> Iterator[Record]:
        key = "0"
        with self.path.open("rb") as raw:
            file: Any = gzip.GzipFile(fileobj=raw) if self.path.suffix == ".gz" else raw
            try:
                for key, record in islice(json_records(file), skip, None):
                    yield Record(self.name, key, record, raw.tell() / self.size)
            except Exception as error:  # of damaged archives, readers raise what they like
                raise self.broken(error, f"{'record' if isinstance(error, JsonError) else 'line'} {key}") from None


class Parquet(Files):
    """One document a row."""

    def read(self, skip: int = 0) -> Iterator[Record]:
        parquet = _extra("pyarrow.parquet", "Parquet files")
        row = 0
        try:
            with parquet.ParquetFile(self.path) as table:
                total, groups = table.metadata.num_rows, list(range(table.num_row_groups))
                while groups and skip >= row + table.metadata.row_group(groups[0]).num_rows:
                    row += table.metadata.row_group(groups.pop(0)).num_rows
                for batch in table.iter_batches(64, row_groups=groups):
                    for value in batch.to_pylist():
                        row += 1
                        if row > skip:
                            yield Record(self.name, str(row), value, row / total)
        except Exception as error:  # of damaged tables, readers raise what they like
            raise self.broken(error, f"row {row}") from None


class Tar(Files):
    """A WebDataset: files that share a name up to their first dot are one sample, by the rest of their names.

    A link gives the file that it leads to, if that comes before it. Files whose names begin with a dot are none.
    """

    def read(self, skip: int = 0) -> Iterator[Record]:
        key, sample = "", dict[str, Any]()
        seen: dict[str, tarfile.TarInfo] = {}
        with self.path.open("rb") as raw:
            try:
                with tarfile.open(fileobj=raw, mode="r:*") as archive:
                    for member in archive:
                        folder, _, name = posixpath.normpath(member.name).rpartition("/")
                        stem, _, extension = name.partition(".")
                        if not (member.isfile() or member.islnk() or member.issym()) or not stem:
                            continue
                        stem = f"{folder}/{stem}" if folder else stem
                        if stem != key and sample:
                            if not skip:
                                yield Record(self.name, key, sample, raw.tell() / self.size)
                            skip = max(0, skip - 1)
                            sample = {}
                        key, extension = stem, extension.lower()
                        target = seen[posixpath.normpath(member.name)] = _target(member, seen)
                        if extension in sample:
                            sample[extension] = ValueError(f"the sample has two files .{extension}; each needs its own")
                        elif skip:
                            sample[extension] = b""
                        elif target.isfile():
                            content = archive.extractfile(target)
                            assert content is not None
                            sample[extension] = content.read()
                        else:
                            sample[extension] = ValueError(
                                f"the file {member.name:.80} is a link to {member.linkname:.80}, which is not before it"
                            )
                    _require_end(archive)
            except Exception as error:  # of damaged archives, readers raise what they like
                raise self.broken(error, f"sample {key!r}") from None
        if sample and not skip:
            yield Record(self.name, key, sample, 1.0)


class HubDataset(Records):
    """Anything `datasets` opens: ``datasets:NAME?split=train&streaming=true&...``, or a folder that it saved.

    What stands behind the question mark are arguments of `datasets.load_dataset`.
    """

    def __init__(self, address: str) -> None:
        self.name = address
        self.dataset, query = address.removeprefix(HUB).split("?", 1) if "?" in address else (address[len(HUB) :], "")
        self.options: dict[str, Any] = {key: TEXTS.get(value, value) for key, value in parse_qsl(query)}
        self.options.setdefault("split", "train")

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
        except Exception as error:  # of the library, of its readers, of the network
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
                yield Record(self.name, str(number), dict(value), number / total if total else None)
        except Exception as error:
            raise ValueError(f"{self.name}: cannot be read behind row {number} ({reason(error)})") from None

    def identity(self) -> Any:
        """Sizes and dates of a saved folder's files; else what `datasets` knows files by: dates, hashes of the hub."""
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
    """Documents at hand."""

    name = "documents"

    def __init__(self, documents: Iterable[Document]) -> None:
        self.documents = documents

    def read(self, skip: int = 0) -> Iterator[Record]:
        total = len(self.documents) if isinstance(self.documents, Sequence) else None
        for number, document in enumerate(islice(self.documents, skip, None), skip + 1):
            yield Record(self.name, str(number), document, number / total if total else None)


def open_sources(names: Sequence[str | Path]) -> list[Records]:
    """Sources by their names: files, folders of files, and ``datasets:...``; each must be there.

    Raises:
        ValueError: there is no such file, or none of a kind that is read.
    """
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
    return sources


def _require_end(archive: tarfile.TarFile) -> None:
    """Raises TarError for an archive whose members end otherwise than in a block of zeros: a damaged or cut header."""
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("no header of a file, nor the end of an archive")


def _target(member: tarfile.TarInfo, seen: dict[str, tarfile.TarInfo]) -> tarfile.TarInfo:
    """The member that a link leads to, among those before it; else the member itself."""
    if member.isfile():
        return member
    folder = posixpath.dirname(member.name) if member.issym() else ""
    return seen.get(posixpath.normpath(posixpath.join(folder, member.linkname)), member)


def _stored(feature: Any, image: Any) -> Any:
    """A column's type with pictures as they are stored: the workers decode them."""
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
