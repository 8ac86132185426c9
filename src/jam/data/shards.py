"""Token shards: the ids of documents in one memory-mapped file, with offsets, answers and image spans.

A folder holds ``ids.bin`` (uint16 if the vocabulary fits, else uint32), ``offsets.npy`` ``[documents + 1]``,
``answers.npy`` ``[documents]`` (index of the last answer's first id within its document), ``images.npy``
``[images, 2]`` (half-open spans in ``ids.bin``, for other programs), ``turns.npy`` ``[answers, 2]`` (likewise, of
earlier answers, if any) and ``shards.json`` with the hash of the vocabulary, the codec's fingerprint, the digest of the
files for training and checksums of all files. ``origins.jsonl`` (written by `prepare`) has the documents' origins.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from jam.checked import require_kind
from jam.checkpoints import sha256_of
from jam.checkpoints.checksums import OTHERS, checksum_of, checksums_in, read_sealed, write_sealed
from jam.codec import Encoded
from jam.files import FileError, parse_json, reading, reason
from jam.vocabulary import Vocabulary

SUMMARY, IDS = "shards.json", "ids.bin"
TRAINED_ON = (IDS, "offsets.npy", "answers.npy")
TURNS = "turns.npy"  # trained on, too, if the file exists
ORIGINS = "origins.jsonl"  # a line has a source and the keys of some of its documents
DTYPES = {"answers": np.dtype(np.int32)} | dict.fromkeys(("ends", "images", "turns"), np.dtype(np.int64))


def dtype_for(vocabulary: Vocabulary) -> np.dtype:
    return np.dtype(np.uint16 if vocabulary.size <= 2**16 else np.uint32)


@dataclass
class Counts:
    """Contents of a folder of shards; `turns`: number of answers before the last answer of a conversation."""

    documents: int = 0
    tokens: int = 0
    images: int = 0
    turns: int = 0


class ShardWriter:
    """Writes encoded documents into an existing folder: `add` documents inside a ``with`` block, then `finish`.

    Raw files hold everything but the ids until `finish`, so that memory does not grow, and a writer can resume from
    what a killed writer flushed.

    Args:
        fingerprint: fingerprint of the codec that encoded the documents; None (unknown) fits no fingerprint of a model.
        counts: contents that an earlier writer flushed; everything after them is cut off.
        beside: folder of the raw files; default: `folder`, from which they are removed at the end.

    Raises:
        ValueError: the folder holds less than `counts` says.
    """

    def __init__(
        self,
        folder: Path,
        vocabulary: Vocabulary,
        fingerprint: str | None = None,
        counts: Counts | None = None,
        beside: Path | None = None,
    ) -> None:
        self.folder, self.vocabulary, self.fingerprint = folder, vocabulary, fingerprint
        self.counts = replace(counts) if counts is not None else Counts()
        self._beside, self._removes = beside or folder, beside is None
        self._dtypes: dict[str, np.dtype] = {"ids": dtype_for(vocabulary), **DTYPES}
        self._files = {name: self._open(name) for name in self._dtypes}

    def _path(self, name: str) -> Path:
        return self.folder / IDS if name == "ids" else self._beside / f"{name}.raw"

    def _open(self, name: str) -> BinaryIO:
        now = self.counts
        rows = {"ids": now.tokens, "ends": now.documents, "answers": now.documents}
        rows |= {"images": 2 * now.images, "turns": 2 * now.turns}
        path, size = self._path(name), rows[name] * self._dtypes[name].itemsize
        file = path.open("r+b" if path.exists() else "w+b")
        if file.seek(0, 2) < size:
            raise ValueError(f"{path} has {file.tell()} of {size} bytes; remove {self._beside} to begin anew")
        file.truncate(size)
        file.seek(size)
        return file

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *error: object) -> None:
        for file in self._files.values():
            file.close()

    @property
    def documents(self) -> int:
        return self.counts.documents

    def add(self, encoded: Encoded) -> None:
        assert all(segment.role != "retrieved" for segment in encoded.segments), "documents in front are not stored"
        ids = np.asarray(encoded.ids, dtype=self._dtypes["ids"])
        is_image = (ids >= self.vocabulary.image_start) & (ids < self.vocabulary.control_start)
        edges = np.flatnonzero(np.diff(np.concatenate([[0], is_image.view(np.int8), [0]])))
        self._write("ids", ids)
        turns = encoded.earlier_answers()
        self._write("images", edges + self.counts.tokens)
        self._write("turns", np.array(turns, dtype=np.int64) + self.counts.tokens)
        self.counts.images += len(edges) // 2
        self.counts.turns += len(turns)
        self.counts.tokens += len(ids)
        self.counts.documents += 1
        self._write("ends", self.counts.tokens)
        self._write("answers", encoded.main_start)

    def _write(self, name: str, values: object) -> None:
        self._files[name].write(np.asarray(values, dtype=self._dtypes[name]).tobytes())

    def flush(self) -> Counts:
        """Hand all data to the system, which keeps the data if this process is killed; returns the contents."""
        for file in self._files.values():
            file.flush()
        return replace(self.counts)

    def finish(self) -> dict[str, Any]:
        """Write all files but ``ids.bin``; returns the contents of ``shards.json``."""
        assert all(file.closed for file in self._files.values())
        offsets = np.zeros(self.documents + 1, dtype=np.int64)
        offsets[1:] = self._raw("ends")
        np.save(self.folder / "offsets.npy", offsets)
        np.save(self.folder / "answers.npy", self._raw("answers"))
        np.save(self.folder / "images.npy", self._raw("images").reshape(-1, 2))
        if self.counts.turns:
            np.save(self.folder / TURNS, self._raw("turns").reshape(-1, 2))
        if self._removes:
            for name in DTYPES:
                self._path(name).unlink()
        summary: dict[str, Any] = {
            **{name: count for name, count in asdict(self.counts).items() if name != "turns" or count},
            "dtype": dtype_for(self.vocabulary).name,
            "vocabulary": self.vocabulary.hash,
            "digest": _digest(self.folder),
            OTHERS: checksums_in(self.folder, (SUMMARY,)),
        }
        if self.fingerprint is not None:
            summary["fingerprint"] = self.fingerprint
        write_sealed(self.folder / SUMMARY, summary)
        return summary

    def _raw(self, name: str) -> np.ndarray:
        return np.fromfile(self._path(name), dtype=self._dtypes[name])


class Shards:
    """The encoded documents of a folder of token shards; ids stay on the disk and are memory-mapped.

    Args:
        fingerprint: `Codec.fingerprint` of the model that reads the shards; None: do not compare.
        most: largest number of documents to read from the beginning; None: all.
        learn_turns: answers of a conversation that have a weight: the "last", or "all".

    Attributes:
        digest: hash of the ids and answers of all documents; None for shards of an earlier version.

    Raises:
        ValueError: the folder is missing, incomplete, empty, or made for another vocabulary or codec.
    """

    def __init__(
        self,
        folder: str | Path,
        vocabulary: Vocabulary,
        fingerprint: str | None = None,
        most: int | None = None,
        learn_turns: Literal["last", "all"] = "last",
    ) -> None:
        folder = Path(folder)
        if not (folder / SUMMARY).is_file():
            missing = "no token shards here" if folder.is_dir() else "there is no such folder of token shards"
            raise ValueError(f"{folder}: {missing}; make them with `jam prepare DOCS.jsonl --model DIR --out {folder}`")
        summary = _read_summary(folder / SUMMARY)
        if summary["vocabulary"] != vocabulary.hash:
            raise ValueError(
                f"{folder}: prepared for vocabulary {summary['vocabulary']}, the model has {vocabulary.hash}; "
                "run `jam prepare` again with this model"
            )
        prepared = summary.get("fingerprint")
        if fingerprint is not None and prepared != fingerprint:
            raise ValueError(
                f"{folder}: prepared by tokenizers with the fingerprint {prepared}, the model's have {fingerprint}: "
                "its ids mean something else to this model; run `jam prepare` again with this model"
            )
        self.folder, self.vocabulary = folder, vocabulary
        self.digest: str | None = summary.get("digest")
        self._checksums: dict[str, str] = summary.get(OTHERS, {})
        trained_on = [*TRAINED_ON, *([TURNS] if TURNS in self._checksums else [])]
        if absent := [name for name in trained_on if not (folder / name).is_file()]:
            raise ValueError(f"{folder}: the token shards are incomplete: {', '.join(absent)}; prepare them again")
        for name in trained_on[1:]:
            self._compare(name)
        try:
            offsets, answers = (np.load(folder / f"{name}.npy") for name in ("offsets", "answers"))
            turns = np.load(folder / TURNS) if TURNS in trained_on else np.zeros((0, 2), dtype=np.int64)
            found = (folder / IDS).stat().st_size
        except Exception as error:  # numpy raises any error for a damaged array
            raise FileError(
                f"{folder}: the token shards cannot be read ({reason(error)}); prepare them again"
            ) from None
        if any(array.ndim != 1 or array.dtype.kind not in "iu" for array in (offsets, answers)):
            raise FileError(f"{folder}: offsets.npy and answers.npy are no lists of numbers; prepare them again")
        if len(offsets) != len(answers) + 1:
            raise ValueError(
                f"{folder}: answers.npy is of {len(answers)} documents and offsets.npy of "
                f"{len(offsets) - 1}; prepare them again"
            )
        if not len(answers):
            raise ValueError(f"{folder}: these shards hold no documents; prepare them from a source that has some")
        lengths = np.diff(offsets)
        if summary["dtype"] not in ("uint16", "uint32") or offsets[0] != 0 or (lengths < 0).any():
            raise FileError(f"{folder}: {SUMMARY} and offsets.npy do not describe documents; prepare them again")
        if ((answers < 0) | (answers > lengths)).any():
            raise FileError(f"{folder}: answers.npy has answers that begin outside their documents; prepare them again")
        dtype = np.dtype(summary["dtype"])
        expected = int(offsets[-1]) * dtype.itemsize
        if expected != found:
            raise ValueError(f"{folder}/ids.bin has {found} bytes, its offsets ask for {expected}; prepare it again")
        if not _are_turns(turns, offsets, answers):
            raise FileError(f"{folder}: {TURNS} has spans that are no parts of questions; prepare them again")
        self.turns: np.ndarray = turns
        self._earlier_weight = 1.0 if learn_turns == "all" else 0.0
        self.answers: np.ndarray = answers[:most]
        self.offsets: np.ndarray = offsets[: len(self.answers) + 1]
        self._ids = np.memmap(folder / IDS, dtype=dtype, mode="r")

    def _compare(self, name: str, go_on: Callable[[], bool] = lambda: True) -> None:
        path, recorded = self.folder / name, self._checksums.get(name)
        if recorded is None:  # of an earlier version
            return
        if (found := checksum_of(path, go_on)) != recorded and go_on():
            raise FileError(
                f"{path} is not as it was written: its checksum is {found}, {SUMMARY} says {recorded}; run "
                "`jam prepare` again, and train again what was trained on it"
            )

    def check(self, go_on: Callable[[], bool] = lambda: True) -> None:
        """Compare all files with their checksums; in shards of an earlier version, the training files with the digest.

        Args:
            go_on: function that is called now and then; reading stops when it returns False.

        Raises:
            FileError: a file is not as it was written.
        """
        if self._checksums:
            for name in self._checksums:
                self._compare(name, go_on)
        elif self.digest is not None and (found := _digest(self.folder)) != self.digest:
            raise FileError(
                f"{self.folder}: ids, offsets or answers are not as they were written: their digest is {found}, "
                f"{SUMMARY} says {self.digest}; run `jam prepare` again"
            )

    def __len__(self) -> int:
        return len(self.answers)

    def __getitem__(self, index: int) -> Encoded:
        first, end = self.offsets[index : index + 2]
        start = int(self.answers[index])
        inside = slice(*np.searchsorted(self.turns[:, 0], [first, first + start]))
        turns = (self.turns[inside] - first).tolist()
        with reading(self.folder / IDS, "prepare it again"):
            return Encoded.of(self._ids[first:end].tolist(), self.vocabulary, start, turns, self._earlier_weight)

    def origin(self, index: int) -> str:
        """The source of a document and its line (row, sample), or the folder and its number if they are unknown."""
        for line, first in self._origins:
            if 0 <= index - first < len(line["keys"]):
                return f"{line['source']}:{line['keys'][index - first]}"
        return f"{self.folder}, document {index + 1}"

    @cached_property
    def _origins(self) -> list[tuple[dict[str, Any], int]]:
        """Lines of the file of origins, each with the number of its first document."""
        try:
            with (self.folder / ORIGINS).open(encoding="utf-8") as file:
                lines = [parse_json(line, ORIGINS) for line in file]
            for line in lines:
                require_kind(dict[str, str | list[str]], line, ORIGINS)
        except (OSError, ValueError):  # of an earlier version, or damaged: `origin` gives numbers
            return []
        if not all({"source", "keys"} <= line.keys() for line in lines):
            return []
        ends = accumulate(len(line["keys"]) for line in lines)
        return list(zip(lines, [0, *ends], strict=False))

    def lengths(self) -> np.ndarray:
        """Number of ids of each document, int64 ``[documents]``."""
        return np.diff(self.offsets)


def _are_turns(turns: np.ndarray, offsets: np.ndarray, answers: np.ndarray) -> bool:
    """True if `turns` are spans in order, each before the last answer of its document."""
    if turns.ndim != 2 or turns.shape[1] != 2 or turns.dtype.kind not in "iu":
        return False
    if (np.diff(turns.ravel(), prepend=0) < 0).any() or (turns >= offsets[-1]).any():
        return False
    documents = np.searchsorted(offsets, turns[:, 0], side="right") - 1
    return bool((turns[:, 1] <= offsets[documents] + answers[documents]).all())


def _digest(folder: Path) -> str:
    hashes = [sha256_of(folder / name) for name in (*TRAINED_ON, TURNS) if (folder / name).is_file()]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()[:16]


def _read_summary(path: Path) -> dict[str, Any]:
    summary = read_sealed(path, "prepare these shards again")
    if missing := {"dtype", "vocabulary"} - summary.keys():
        raise ValueError(f"{path} does not say {', '.join(sorted(missing))}; prepare these shards again")
    return summary
