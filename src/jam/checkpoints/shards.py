"""A writer of safetensors files in pieces, by several threads, in memory that does not grow with the files."""

from __future__ import annotations

import json
import os
import threading
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jam.checkpoints.checksums import joined, written
from jam.checkpoints.folders import write_json
from jam.checkpoints.jobs import Jobs
from jam.checkpoints.resume import Journal
from jam.checkpoints.tensors import TensorInfo
from jam.checkpoints.weights import SAFETENSORS

if TYPE_CHECKING:
    from torch import Tensor

DEFAULT_SHARD_BYTES = 2_000_000_000
PIECE = 2**20  # bytes
Pieces = Callable[[str], "Iterable[Tensor]"]


@dataclass(frozen=True)
class Shard:
    """A safetensors file before it is written.

    Attributes:
        header: the bytes before the data.
        starts: position of every tensor in the file.
        size: bytes of the file.
    """

    name: str
    infos: dict[str, TensorInfo]

    @cached_property
    def header(self) -> bytes:
        entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for name, info in self.infos.items():
            entry = {"dtype": info.kind, "shape": list(info.shape)}
            entries[name] = entry | {"data_offsets": [offset, offset + info.bytes]}
            offset += info.bytes
        encoded = json.dumps(entries, separators=(",", ":")).encode()
        encoded += b" " * (-len(encoded) % 8)  # the format wants data to begin at a multiple of 8
        return len(encoded).to_bytes(8, "little") + encoded

    @cached_property
    def starts(self) -> dict[str, int]:
        starts, position = {}, len(self.header)
        for name, info in self.infos.items():
            starts[name] = position
            position += info.bytes
        return starts

    @property
    def size(self) -> int:
        return len(self.header) + sum(info.bytes for info in self.infos.values())

    def checksum(self, checksums: Mapping[str, int]) -> str:
        """The checksum of the whole file, from the checksums of its tensors."""
        whole = zlib.crc32(self.header)
        for name, info in self.infos.items():
            whole = joined(whole, checksums[name], info.bytes)
        return written(whole)

    def is_whole(self, path: Path, checksums: Mapping[str, int]) -> bool:
        """True if the file at `path` is this shard, with tensors of these checksums."""
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        with path.open("rb", buffering=0) as file:
            if file.read(len(self.header)) != self.header:
                return False
            return all(checksums.get(name) == _checksum_of(file, info.bytes) for name, info in self.infos.items())


def divide(infos: Mapping[str, TensorInfo], max_shard_bytes: float) -> list[Shard]:
    """The files of a checkpoint, with the names of `transformers`; a tensor is never divided."""
    groups: list[dict[str, TensorInfo]] = []
    size = 0
    for name, info in infos.items():
        if not groups or size + info.bytes > max_shard_bytes:
            groups.append({})
            size = 0
        groups[-1][name] = info
        size += info.bytes
    if len(groups) == 1:
        return [Shard(SAFETENSORS, groups[0])]
    stem, suffix = SAFETENSORS.split(".")
    return [Shard(f"{stem}-{n:05d}-of-{len(groups):05d}.{suffix}", group) for n, group in enumerate(groups, 1)]


def write_checkpoint(
    folder: str | Path,
    infos: Mapping[str, TensorInfo],
    pieces: Pieces,
    jobs: Jobs,
    journal: Journal | None = None,
    max_shard_bytes: float = DEFAULT_SHARD_BYTES,
    on_written: Callable[[int], None] | None = None,
) -> dict[str, str]:
    """Write tensors as safetensors, each tensor in one of the threads of `jobs`, and wait for all jobs.

    An unfinished file has the suffix `.partial`.

    Args:
        infos: the tensors to write, in the order of the files.
        pieces: function of a tensor's name that gives consecutive pieces, in the tensor's data type. The next piece may
            overwrite the memory of a piece.
        journal: journal with the finished files, which are checked and kept; every further finished file is added.
        max_shard_bytes: largest file; larger checkpoints become several files with an index.
        on_written: function that gets the bytes of every written piece and of every kept file.

    Returns:
        Checksums of the files of tensors by name; empty if the jobs were stopped.
    """
    folder = Path(folder)
    shards = divide(infos, max_shard_bytes)
    if len(shards) > 1:
        total = {"total_parameters": sum(i.count for i in infos.values()), "total_size": sum_bytes(infos.values())}
        weight_map = {name: shard.name for shard in shards for name in shard.infos}
        write_json(folder / f"{SAFETENSORS}.index.json", {"metadata": total, "weight_map": weight_map})
    known = journal.shards if journal else {}
    kept = [shard for shard in shards if shard.name in known]
    whole = jobs.map(lambda shard: shard.is_whole(folder / shard.name, known[shard.name]), kept)
    checksums = {shard.name: dict(known[shard.name]) for shard, is_whole in zip(kept, whole, strict=True) if is_whole}
    for shard in shards:
        if shard.name in checksums:
            if on_written is not None:
                on_written(sum_bytes(shard.infos.values()))
            continue
        growing = _GrowingShard(shard, folder, journal, checksums.setdefault(shard.name, {}))
        # The largest tensors come first, so that the threads end together.
        for name in sorted(shard.infos, key=lambda name: -shard.infos[name].bytes):
            jobs.submit(growing.write, name, pieces, jobs.stopped, on_written)
    jobs.wait()
    if jobs.stopped.is_set():  # whoever stopped the jobs raises the error
        return {}
    return {shard.name: shard.checksum(checksums[shard.name]) for shard in shards}


def sum_bytes(infos: Iterable[TensorInfo]) -> int:
    return sum(info.bytes for info in infos)


@dataclass
class _GrowingShard:
    """A shard while it is written; `checksums` has the finished tensors."""

    shard: Shard
    folder: Path
    journal: Journal | None
    checksums: dict[str, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @cached_property
    def partial(self) -> Path:
        return self.folder / f"{self.shard.name}.partial"

    def write(
        self, name: str, pieces: Pieces, stopped: threading.Event, on_written: Callable[[int], None] | None
    ) -> None:
        import torch

        info, position, checksum = self.shard.infos[name], self.shard.starts[name], 0
        end = position + info.bytes
        with self.lock:
            if not self.partial.exists():
                self.partial.write_bytes(self.shard.header)
        with self.partial.open("r+b", buffering=0) as file:
            for piece in pieces(name):
                if stopped.is_set():
                    return
                assert piece.dtype == info.dtype, (name, piece.dtype, info.dtype)
                data = piece.contiguous().view(-1).view(torch.uint8).numpy().data
                assert position + len(data) <= end, name
                _write_at(file.fileno(), data, position)
                position, checksum = position + len(data), zlib.crc32(data, checksum)
                if on_written is not None:
                    on_written(len(data))
        assert position == end, (name, end - position)
        with self.lock:
            self.checksums[name] = checksum
            if len(self.checksums) == len(self.shard.infos):
                self.partial.rename(self.folder / self.shard.name)
                if self.journal is not None:
                    self.journal.record_shard(self.shard.name, self.checksums)


def _write_at(fd: int, data: memoryview, position: int) -> None:
    while data:
        count = os.pwrite(fd, data, position)
        data, position = data[count:], position + count


def _checksum_of(file: Any, size: int) -> int:
    """The checksum of the next `size` bytes."""
    buffer, checksum = memoryview(bytearray(min(size, PIECE))), 0
    while size:
        count = file.readinto(buffer[:size])
        checksum, size = zlib.crc32(buffer[:count], checksum), size - count
    return checksum
