"""Documents to token shards: any number of processes, any number of kills, the same files.

Records are read in order, in blocks that never go beyond a source; the blocks are encoded wherever there is a worker,
and written in their order. After each of them a small file says how far everything is: a run that is killed is gone on
with from there by the next one. A result `shards` is made in `.shards.partial` beside it.
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

BLOCK, MAX_BLOCK = 64, 2**28  # records that are encoded together, and bytes from which on they are fewer
READING = 4  # raised where records are read otherwise: a run that was begun before begins anew
REJECTS = "rejects.jsonl"
STATE, VERDICTS = "state.json", "verdicts.jsonl"
KEPT = "what was prepared is kept; the same command goes on from there"
MAX_REJECTS = 0.01
SHOWN = 3  # rejects in the message that stops a run
SETTLED = 1000  # records from which on a share of them is taken at its word while the run goes on


@dataclass
class State:
    """How far a preparation is: what a killed run leaves behind.

    Args:
        source: number of the source that is being read.
        records: how many of its records are done.
        counts: what is written.
        rejects: how many were rejected.
        rejects_size: bytes of their file.
        origins_size: bytes of the file that says where documents come from.
        seen: records of all sources.
        share: how much of everything is read; None where that is not known.
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
    """Encode documents in order, the pictures of several documents in one batch."""
    stream = iter(documents)
    while batch := list(islice(stream, BLOCK)):
        yield from codec.encode_batch(batch)


def encode_fitting(
    documents: Iterable[Document], codec: Codec, context: int, leave_out: Callable[[str], None]
) -> Iterator[Encoded]:
    """As `encode_all`, but documents that cannot be split for a context, of which `leave_out` is told where and why."""
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
    """Write shards to the new folder `out`; yields counts after every document and at last the summary.

    Records that are no documents for this model are left out and listed in ``rejects.jsonl``. `out` is the same
    whatever the number of workers, and however often a run was killed and gone on with.

    Args:
        documents: documents at hand, or sources (`open_sources`); only a run from sources can be gone on with.
        workers: processes; one is this process.
        max_rejects: how many records may be rejected, or (a float below 1) which share of them.
        context: the longest that the model has: a document that cannot be split for it is rejected.

    Raises:
        ValueError: `out` exists, a source cannot be read or has nothing in it, too many records are rejected, or the
            disk is full.
    """
    sources = [source for source in documents if isinstance(source, Records)] if isinstance(documents, Sequence) else []
    if not sources:
        sources = [Documents(documents)]  # type: ignore[arg-type]
    check_limit(max_rejects)
    out = Path(out)
    key = _key(sources, codec, context)
    with _place(out, key) as (place, state):
        made, verdicts = place / "shards", Verdicts(place / VERDICTS)
        try:
            with (
                ShardWriter(made, codec.vocabulary, codec.fingerprint, state.counts, place) as writer,
                _open_at(made / REJECTS, state.rejects_size) as rejects,
                _open_at(made / ORIGINS, state.origins_size) as origins,
            ):
                for block, result in encode_blocks(codec, _blocks(sources, state), workers, context):
                    before, files, keys = asdict(state), Identities(), list[str]()
                    for record, one in zip(block.records, result, strict=True):
                        if isinstance(one, Reject):
                            state.rejects += 1
                            files |= one.files
                            rejects.write(one.line())
                        else:
                            keys.append(record.key)
                            writer.add(one)
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
                    _refuse_rejects(state, max_rejects, made / REJECTS)
            _refuse_rejects(state, max_rejects, made / REJECTS, final=True)
            if not state.seen:
                raise ValueError("there are no documents to prepare")
            summary = writer.finish()
        except OSError as error:
            if is_disk_full(error):
                raise disk_full(out, None, KEPT if _goes_on(key, place) else NOTHING) from error
            raise
        refuse_existing(out)  # another process may have been faster
        made.rename(out)
    yield {**summary, **_figures(writer.counts, state)}


def _goes_on(key: str | None, place: Path) -> bool:
    """Whether there is something that the next run goes on from."""
    return key is not None and (place / STATE).exists()


def check_limit(limit: int | float) -> None:
    """Raises ValueError for a limit that is neither a number of records nor a share of them."""
    if limit < 0 or (isinstance(limit, float) and limit > 1):
        raise ValueError(f"--max-rejects is {limit}; give a number of documents (100) or a share of them (0.01)")


def _blocks(sources: Sequence[Records], state: State) -> Iterator[Block]:
    """Blocks from the state's place on. Raises ValueError for a source that has nothing."""
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
    """`BLOCK` records, or fewer that hold `MAX_BLOCK` bytes."""
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
    """Count a block that is written."""
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
    shown = "; ".join(f"{one['source']}:{one['key']}: {one['reason']}" for one in first)
    raise ValueError(
        f"{state.rejects} of {state.seen} documents were rejected, --max-rejects allows {limit}: {shown}; all are in "
        f"{path}; correct them, or go on with a higher --max-rejects"
    )


@contextmanager
def _open_at(path: Path, size: int) -> Iterator[BinaryIO]:
    """A file to write on behind its first `size` bytes; the others are cut off."""
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.truncate(size)
        file.seek(size)
        yield file


def _key(sources: Sequence[Records], codec: Codec, context: int | None) -> str | None:
    """All that decides the result; None where a run cannot be gone on with."""
    identities = [source.identity() for source in sources]
    if None in identities:
        return None
    decisive = [READING, BLOCK, codec.vocabulary.hash, codec.fingerprint, codec.grammar.image_tokens, context]
    return json.dumps([*decisive, identities, [str(source.allowed_media_path) for source in sources]])


def refuse_prepared(out: Path) -> None:
    """Raises ValueError when there is something at `out`; what a run left that was killed at its end is removed."""
    place = place_beside(out)
    if out.is_dir() and place.is_dir() and not (place / "shards").exists():
        shutil.rmtree(place)
    refuse_existing(out)


@contextmanager
def _place(out: Path, key: str | None) -> Iterator[tuple[Path, State]]:
    """The folder in which `out` is made, and how far it is; removed at the end, or if it cannot be gone on with.

    What a run with another key left there is thrown away.
    """
    refuse_prepared(out)
    place = place_beside(out)
    place.mkdir(parents=True, exist_ok=True)
    with only_one(place / "lock", out):
        state = _left(place, key)
        try:
            yield place, state
        except BaseException:
            if not _goes_on(key, place):
                shutil.rmtree(place, ignore_errors=True)
            raise
        shutil.rmtree(place, ignore_errors=True)  # the result is whole, whatever becomes of it


def _left(place: Path, key: str | None) -> State:
    """What an earlier run with this key left, or a new beginning."""
    try:
        if key is not None and (place / "shards").is_dir() and (place / "key.json").read_text(encoding="utf-8") == key:
            verdicts = Verdicts(place / VERDICTS)
            state = verdicts.go_back(read_json(place / STATE))
            write_json(place / STATE, state)  # before anything behind it is cut off, or forgotten
            verdicts.forget(state)
            for half in (place / "shards").glob(".*.partial-*"):  # of a run that was killed at its end
                half.unlink()
            return State.of(state)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # damaged: it begins anew
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
