"""Documents to token shards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from jam.checkpoints import new_folder
from jam.codec import Codec, Encoded
from jam.data.shards import ShardWriter
from jam.documents import Document

BATCH = 64  # documents whose pictures are tokenized together


def encode_all(documents: Iterable[Document], codec: Codec) -> Iterator[Encoded]:
    """Encode documents in order, the pictures of several documents in one batch."""
    stream = iter(documents)
    while batch := list(islice(stream, BATCH)):
        yield from codec.encode_batch(batch)


def prepare(documents: Iterable[Document], codec: Codec, out: str | Path) -> Iterator[dict[str, int | str]]:
    """Write shards to the new folder `out`; yields counts after every document and at last the summary.

    Raises:
        ValueError: a document cannot be read (file and line are named), or `out` exists. Nothing is left then.
    """
    with new_folder(out) as folder:
        with ShardWriter(folder, codec.vocabulary, codec.fingerprint) as writer:
            for encoded in encode_all(documents, codec):
                writer.add(encoded)
                yield {"documents": writer.documents, "images": writer.images, "tokens": writer.tokens}
        if not writer.documents:
            raise ValueError("there are no documents to prepare")
        summary = writer.finish()
    yield summary
