"""Token shards: the ids of documents in one memory-mapped file, with offsets, answers and image spans.

A folder holds ``ids.bin`` (uint16 where the vocabulary fits, else uint32), ``offsets.npy`` ``[documents + 1]``,
``answers.npy`` ``[documents]`` (index of the answer's first id within its document), ``images.npy`` ``[images, 2]``
(half-open spans in ``ids.bin``) and ``shards.json`` with the hash of the vocabulary and the codec's fingerprint.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from jam.codec import Encoded
from jam.vocabulary import Vocabulary


def dtype_for(vocabulary: Vocabulary) -> np.dtype:
    return np.dtype(np.uint16 if vocabulary.size <= 2**16 else np.uint32)


class ShardWriter:
    """Writes encoded documents into an existing, empty folder: `add` them inside a ``with`` block, then `finish`.

    `fingerprint` is that of the codec which encoded them; None (not known) fits no model that is asked for its own.
    """

    def __init__(self, folder: Path, vocabulary: Vocabulary, fingerprint: str | None = None) -> None:
        self.folder, self.vocabulary, self.fingerprint = folder, vocabulary, fingerprint
        self._file = (folder / "ids.bin").open("wb")
        self._offsets = [0]
        self._answers: list[int] = []
        self._images: list[tuple[int, int]] = []

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    @property
    def documents(self) -> int:
        return len(self._answers)

    @property
    def tokens(self) -> int:
        return self._offsets[-1]

    @property
    def images(self) -> int:
        return len(self._images)

    def add(self, encoded: Encoded) -> None:
        ids = np.asarray(encoded.ids, dtype=dtype_for(self.vocabulary))
        is_image = (ids >= self.vocabulary.image_start) & (ids < self.vocabulary.control_start)
        edges = np.flatnonzero(np.diff(np.concatenate([[0], is_image.view(np.int8), [0]])))
        self._images += [(self.tokens + int(a), self.tokens + int(b)) for a, b in edges.reshape(-1, 2)]
        self._file.write(ids.tobytes())
        self._offsets.append(self.tokens + len(ids))
        self._answers.append(encoded.answer_start)

    def finish(self) -> dict[str, int | str]:
        """Write what lies beside the ids; returns what ``shards.json`` says."""
        assert self._file.closed
        np.save(self.folder / "offsets.npy", np.asarray(self._offsets, dtype=np.int64))
        np.save(self.folder / "answers.npy", np.asarray(self._answers, dtype=np.int32))
        np.save(self.folder / "images.npy", np.asarray(self._images, dtype=np.int64).reshape(-1, 2))
        summary: dict[str, int | str] = {
            "documents": self.documents,
            "tokens": self.tokens,
            "images": self.images,
            "dtype": dtype_for(self.vocabulary).name,
            "vocabulary": self.vocabulary.hash,
        }
        if self.fingerprint is not None:
            summary["fingerprint"] = self.fingerprint
        (self.folder / "shards.json").write_text(json.dumps(summary, indent=2) + "\n")
        return summary


class Shards:
    """Reads a folder of token shards; ids stay on the disk and are mapped.

    Args:
        fingerprint: `Codec.fingerprint` of the model that reads them; None: don't compare.

    Raises:
        ValueError: the folder is none, incomplete, empty or of another vocabulary or codec.
    """

    def __init__(self, folder: str | Path, vocabulary: Vocabulary, fingerprint: str | None = None) -> None:
        folder = Path(folder)
        if not (folder / "shards.json").is_file():
            raise ValueError(
                f"{folder}: no token shards here; make them with `jam prepare DOCS.jsonl --model DIR --out {folder}`"
            )
        summary = json.loads((folder / "shards.json").read_text())
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
        try:
            self.offsets, self.answers, self.images = (
                np.load(folder / f"{name}.npy") for name in ("offsets", "answers", "images")
            )
            found = (folder / "ids.bin").stat().st_size
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{folder}: the token shards are incomplete ({error}); prepare them again") from None
        if not len(self):
            raise ValueError(f"{folder}: these shards hold no documents")
        dtype = np.dtype(summary["dtype"])
        expected = int(self.offsets[-1]) * dtype.itemsize
        if expected != found:
            raise ValueError(f"{folder}/ids.bin has {found} bytes, its offsets ask for {expected}; prepare it again")
        self._ids = np.memmap(folder / "ids.bin", dtype=dtype, mode="r")

    def __len__(self) -> int:
        return len(self.answers)

    def __getitem__(self, index: int) -> Encoded:
        ids = self._ids[self.offsets[index] : self.offsets[index + 1]]
        return Encoded(ids.tolist(), int(self.answers[index]))

    def lengths(self) -> np.ndarray:
        """Ids of each document, int64 ``[documents]``."""
        return np.diff(self.offsets)
