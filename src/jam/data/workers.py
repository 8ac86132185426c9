"""Ids from blocks of records, in this process or several; results have the order of the blocks.

A block's result depends on the block only: batches of pictures never span two blocks, and run on one thread.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from jam.codec import Codec, Encoded
from jam.data.converters import name_of, to_document
from jam.data.records import Record
from jam.data.split import why_unsplittable
from jam.data.verdicts import Identities, identities
from jam.documents import Document, PicturePathError, Text, shortened

PRELOADED = [__name__, "diffusers.models.autoencoders.vq_model", "transformers.models.auto.tokenization_auto"]
LONGEST_REASON = 500  # characters
AHEAD = 3  # blocks per worker that are read ahead


@dataclass(frozen=True)
class Reject:
    """A record that is no document for this model, and the reason. `files` are files that the record names."""

    source: str
    key: str
    id: str | None
    reason: str
    files: Identities = field(default_factory=dict)

    def line(self) -> bytes:
        """The line for the file of rejects."""
        shown = {name: getattr(self, name) for name in ("source", "key", "id", "reason")}
        return (json.dumps(shown, ensure_ascii=False) + "\n").encode(errors="backslashreplace")


@dataclass(frozen=True)
class Block:
    """Records of one source; `source` is its number among the sources."""

    source: int
    records: list[Record]


Result = list[Encoded | Reject]
T = TypeVar("T")


def encode_block(codec: Codec, block: Block, context: int | None = None) -> Result:
    """The encoded document, or the reject, of each record of a block.

    `context`: documents that cannot be split for this context are rejected; None: no limit.
    """
    documents: list[Document] = []
    errors: dict[int, ValueError] = {}
    for number, record in enumerate(block.records):
        try:
            document = to_document(record)
            if not any(not isinstance(part, Text) or part.text.strip() for part in document.parts):
                raise ValueError("the document is empty: it has neither text nor picture")
            documents.append(document)
        except ValueError as error:
            errors[number] = error
    encoded = zip(documents, codec.encode_each(documents), strict=True)
    result: Result = []
    for number, record in enumerate(block.records):
        document, outcome = (Document(), errors[number]) if number in errors else next(encoded)
        if isinstance(outcome, Encoded):
            why = why_unsplittable(outcome, context, codec.vocabulary) if context is not None else None
            result.append(outcome if why is None else _reject(record, document, why))
        else:
            looked_for = [outcome.path] if isinstance(outcome, PicturePathError) and outcome.path is not None else []
            result.append(_reject(record, document, str(outcome).removeprefix(record.where), looked_for))
    return result


def _reject(record: Record, document: Document, reason: str, looked_for: Sequence[str] = ()) -> Reject:
    name = name_of(record)
    files = identities([*looked_for, *(image.file for image in document.images if image.file is not None)])
    return Reject(
        record.source,
        shortened(record.key, LONGEST_REASON),
        None if name is None else shortened(name, LONGEST_REASON),
        shortened(reason, LONGEST_REASON),
        files,
    )


def encode_blocks(
    codec: Codec, blocks: Iterable[Block], workers: int, context: int | None = None
) -> Iterator[tuple[Block, Result]]:
    """All blocks in order, each with its result.

    Raises:
        ValueError: a worker died.
    """
    if workers == 1:
        for block in blocks:
            yield block, _on_one_thread(lambda block=block: encode_block(codec, block, context))  # type: ignore[misc]
        return
    waiting: deque[tuple[Block, Future[Result]]] = deque()
    try:
        with ProcessPoolExecutor(workers, _context(), _begin, (pickle.dumps((codec, context)),)) as pool:
            try:
                for block in blocks:
                    waiting.append((block, pool.submit(_work, block)))
                    while len(waiting) >= AHEAD * workers or (waiting and waiting[0][1].done()):
                        first, future = waiting.popleft()
                        yield first, future.result()
                while waiting:
                    first, future = waiting.popleft()
                    yield first, future.result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
    except BrokenProcessPool:
        raise ValueError(
            f"one of {workers} worker processes died, perhaps for want of memory; the same command goes on from here; "
            "try fewer --workers"
        ) from None


def _context() -> multiprocessing.context.BaseContext:
    """Processes that start from a server with all modules imported, if the system supports that."""
    kind = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(kind)
    if kind == "forkserver":
        context.set_forkserver_preload(PRELOADED)
    return context


def warm_up(workers: int) -> None:
    """Start the server of processes, which imports its modules while this process does other work."""
    if workers > 1 and _context().get_start_method() == "forkserver":
        from multiprocessing.forkserver import ensure_running

        ensure_running()


_codec: Codec | None = None
_context_length: int | None = None


def _begin(work: bytes) -> None:
    """Prepare a worker: one thread, no interrupts, and an end when its parent ends."""
    global _codec, _context_length
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _codec, _context_length = pickle.loads(work)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(block: Block) -> Result:
    assert _codec is not None
    return encode_block(_codec, block, _context_length)


def _on_one_thread(work: Callable[[], T]) -> T:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return work()
    finally:
        torch.set_num_threads(threads)
