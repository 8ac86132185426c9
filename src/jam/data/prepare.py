"""Token shards from documents: equal files for any number of processes and any number of kills.

One process reads records in order, in blocks that never span two sources; any worker encodes a block, and blocks are
written in order. After each block, a small file records the progress, from which the next run resumes a killed one. A
result `shards` grows in `.shards.partial` beside it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from jam.checkpoints import write_json
from jam.checkpoints.folders import NOTHING, disk_full, is_disk_full, refuse_existing
from jam.checkpoints.locks import only_one
from jam.checkpoints.resume import place_beside
from jam.codec import Codec, Encoded
from jam.data.records import Documents, Record, Records
from jam.data.shards import ORIGINS, Counts, ShardWriter
from jam.data.split import why_unsplittable
from jam.data.verdicts import Identities, Verdicts
from jam.data.workers import Block, Reject, encode_blocks
from jam.documents import Document
from jam.files import parse_json, read_json

BLOCK, MAX_BLOCK = 64, 2**28  # records that are encoded together, and the bytes at which a block ends early
READING = 4  # version of how records are read; a run begun with another version begins anew
REJECTS = "rejects.jsonl"
STATE, VERDICTS = "state.json", "verdicts.jsonl"
KEPT = "what was prepared is kept; the same command goes on from there"
MAX_REJECTS = 0.01
SHOWN = 3  # rejects in the message that stops a run
SETTLED = 1000  # records after which a running preparation compares the share of rejects with its limit


@dataclass
class State:
    """The progress of a preparation, from which the next run resumes.

    Args:
        source: number of the current source.
        records: number of finished records of the current source.
        counts: written documents, tokens and images.
        rejects: number of rejected records.
        rejects_size: bytes of the file of rejects.
        origins_size: bytes of the file of the documents' origins.
        seen: number of finished records of all sources.
        share: finished share of all sources, or None if unknown.
    """

    source: int = 0
    records: int = 0
    counts: Counts = field(default_factory=Counts)
    rejects: int = 0
    rejects_size: int = 0
    origins_size: int = 0
    seen: int = 0
    share: float | None = None

    @classmethod
    def of(cls, values: dict[str, Any]) -> State:
        return cls(**values | {"counts": Counts(**values["counts"])})


def encode_all(documents: Iterable[Document], codec: Codec) -> Iterator[Encoded]:
    """The encoded documents in order; the pictures of several documents are encoded in one batch."""
    stream = iter(documents)
    while batch := list(islice(stream, BLOCK)):
        yield from codec.encode_batch(batch)


def encode_fitting(
    documents: Iterable[Document], codec: Codec, context: int, leave_out: Callable[[str], None]
) -> Iterator[Encoded]:
    """As `encode_all`, without documents that cannot be split for `context`; `leave_out` gets place and reason."""
    stream = iter(documents)
    while batch := list(islice(stream, BLOCK)):
        for document, encoded in zip(batch, codec.encode_batch(batch), strict=True):
            if (why := why_unsplittable(encoded, context, codec.vocabulary)) is None:
                yield encoded
            else:
                leave_out(f"{document.where}{why}")


def prepare(
    documents: Iterable[Document] | Sequence[Records],
    codec: Codec,
    out: str | Path,
    workers: int = 1,
    max_rejects: int | float = MAX_REJECTS,
    context: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Write shards to the new folder `out`; yields counts after every document, and the summary at the end.

    Records that are no documents for this model are left out and listed in ``rejects.jsonl``. `out` does not depend on
    the number of workers, nor on how often a run was killed and resumed.

    Args:
        documents: documents in memory, or sources (`open_sources`); only a run from sources can resume.
        workers: number of processes; with 1, this process does the work.
        max_rejects: largest number of rejected records, or (a float up to 1) their largest share.
        context: the model's longest context; documents that cannot be split for it are rejected.

    Raises:
        ValueError: `out` exists, a source cannot be read or is empty, too many records are rejected, or the disk is
            full.
    """
    sources = [source for source in documents if isinstance(source, Records)] if isinstance(documents, Sequence) else []
    if not sources:
        sources = [Documents(documents)]  # type: ignore[arg-type]
    check_limit(max_rejects)
    out = Path(out)
    key = _key(sources, codec, context)
    with _place(out, key) as (place, state):
        shards, verdicts = place / "shards", Verdicts(place / VERDICTS)
        try:
            with (
                ShardWriter(shards, codec.vocabulary, codec.fingerprint, state.counts, place) as writer,
                _open_at(shards / REJECTS, state.rejects_size) as rejects,
                _open_at(shards / ORIGINS, state.origins_size) as origins,
            ):
                for block, result in encode_blocks(codec, _blocks(sources, state), workers, context):
                    before, files, keys = asdict(state), Identities(), list[str]()
                    for record, outcome in zip(block.records, result, strict=True):
                        if isinstance(outcome, Reject):
                            state.rejects += 1
                            files |= outcome.files
                            rejects.write(outcome.line())
                        else:
                            keys.append(record.key)
                            writer.add(outcome)
                            yield _figures(writer.counts, state)
                    if keys:
                        origins.write(json.dumps({"source": sources[block.source].name, "keys": keys}).encode() + b"\n")
                    if files:
                        verdicts.add(before, files)
                    rejects.flush()
                    origins.flush()
                    state.rejects_size, state.origins_size = rejects.tell(), origins.tell()
                    _advance(state, sources, block, writer.flush())
                    write_json(place / STATE, asdict(state))
                    _refuse_rejects(state, max_rejects, shards / REJECTS)
            _refuse_rejects(state, max_rejects, shards / REJECTS, final=True)
            if not state.seen:
                raise ValueError("there are no documents to prepare")
            summary = writer.finish()
        except OSError as error:
            if is_disk_full(error):
                raise disk_full(out, None, KEPT if _is_resumable(key, place) else NOTHING) from error
            raise
        refuse_existing(out)  # another process may have been faster
        shards.rename(out)
    yield {**summary, **_figures(writer.counts, state)}


def _is_resumable(key: str | None, place: Path) -> bool:
    """True if the next run can resume from `place`."""
    return key is not None and (place / STATE).exists()


def check_limit(limit: int | float) -> None:
    """Raises ValueError if a limit is neither a number of records nor a share of records."""
    if limit < 0 or (isinstance(limit, float) and limit > 1):
        raise ValueError(f"--max-rejects is {limit}; give a number of documents (100) or a share of them (0.01)")


def _blocks(sources: Sequence[Records], state: State) -> Iterator[Block]:
    """Blocks from the state's place on. Raises ValueError for an empty source."""
    first, skip = state.source, state.records
    for number in range(first, len(sources)):
        records = sources[number].read(skip if number == first else 0)
        empty = not (skip and number == first)
        while block := _next_block(records):
            empty = False
            yield Block(number, block)
        if empty and not isinstance(sources[number], Documents):
            raise ValueError(f"{sources[number].name}: there are no documents in it; leave it out")


def _next_block(records: Iterator[Record]) -> list[Record]:
    """The next `BLOCK` records, or fewer if they reach `MAX_BLOCK` bytes."""
    block, size = list[Record](), 0
    for record in islice(records, BLOCK):
        block.append(record)
        size += _size_of(record.value)
        if size >= MAX_BLOCK:
            break
    return block


def _size_of(value: Any) -> int:
    """Bytes and characters in a record's value."""
    if isinstance(value, bytes | str):
        return len(value)
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return sum(map(_size_of, parts))


def _advance(state: State, sources: Sequence[Records], block: Block, counts: Counts) -> None:
    """Add a written block to the state."""
    if state.source != block.source:
        state.source, state.records = block.source, 0
    state.records += len(block.records)
    state.seen += len(block.records)
    state.counts = counts
    share, sizes = block.records[-1].share, [source.size for source in sources]
    if share is not None:
        state.share = (sum(sizes[: state.source]) + share * sizes[state.source]) / sum(sizes)


def _figures(counts: Counts, state: State) -> dict[str, Any]:
    return {**asdict(counts), "rejects": state.rejects, "share": state.share}


def _refuse_rejects(state: State, limit: int | float, path: Path, final: bool = False) -> None:
    share = isinstance(limit, float)
    allowed = limit * (state.seen if final else max(state.seen, SETTLED)) if share else limit
    if state.rejects <= allowed:
        return
    with path.open(encoding="utf-8") as lines:
        first = [parse_json(line, str(path)) for line in islice(lines, SHOWN)]
    shown = "; ".join(f"{reject['source']}:{reject['key']}: {reject['reason']}" for reject in first)
    raise ValueError(
        f"{state.rejects} of {state.seen} documents were rejected, --max-rejects allows {limit}: {shown}; all are in "
        f"{path}; correct them, or go on with a higher --max-rejects"
    )


@contextmanager
def _open_at(path: Path, size: int) -> Iterator[BinaryIO]:
    """A file that is cut to its first `size` bytes and open for writing after them."""
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.truncate(size)
        file.seek(size)
        yield file


def _key(sources: Sequence[Records], codec: Codec, context: int | None) -> str | None:
    """Everything that decides the result, or None if a run cannot resume."""
    identities = [source.identity() for source in sources]
    if None in identities:
        return None
    decisive = [READING, BLOCK, codec.vocabulary.hash, codec.fingerprint, codec.grammar.image_tokens, context]
    return json.dumps([*decisive, identities, [str(source.allowed_media_path) for source in sources]])


def refuse_prepared(out: Path) -> None:
    """Raises ValueError if `out` exists; removes the place of a run that was killed after `out` was complete."""
    place = place_beside(out)
    if out.is_dir() and place.is_dir() and not (place / "shards").exists():
        shutil.rmtree(place)
    refuse_existing(out)


@contextmanager
def _place(out: Path, key: str | None) -> Iterator[tuple[Path, State]]:
    """The folder in which `out` grows, and its state; removed at the end, or after an error if no run can resume.

    Files of a run with another key are removed.
    """
    refuse_prepared(out)
    place = place_beside(out)
    place.mkdir(parents=True, exist_ok=True)
    with only_one(place / "lock", out):
        state = _left(place, key)
        try:
            yield place, state
        except BaseException:
            if not _is_resumable(key, place):
                shutil.rmtree(place, ignore_errors=True)
            raise
        shutil.rmtree(place, ignore_errors=True)  # the result is complete even if this fails


def _left(place: Path, key: str | None) -> State:
    """The state that an earlier run with this key left, or a new one in an emptied folder."""
    try:
        if key is not None and (place / "shards").is_dir() and (place / "key.json").read_text(encoding="utf-8") == key:
            verdicts = Verdicts(place / VERDICTS)
            state = verdicts.go_back(read_json(place / STATE))
            write_json(place / STATE, state)  # before later data are cut off or forgotten
            verdicts.forget(state)
            for half in (place / "shards").glob(".*.partial-*"):  # of a run that was killed at its end
                half.unlink()
            return State.of(state)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # damaged: begin anew
        pass
    for path in place.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "lock":
            path.unlink()
    (place / "shards").mkdir()
    if key is not None:
        (place / "key.json").write_text(key, encoding="utf-8")
    return State()
