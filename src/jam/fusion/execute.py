"""Execute a plan: read the parents in blocks, compute in fp32, write; other threads hash the parents meanwhile."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jam.checkpoints import Hashes, Jobs, write_checkpoint
from jam.checkpoints.manifest import version
from jam.checkpoints.resume import Workplace
from jam.fusion.pair import Pair
from jam.fusion.parents import Parent
from jam.fusion.plan import FusionPlan, PlannedTensor

FileHashes = dict[str, str]
"""SHA-256 by file name."""


def write_weights(
    plan: FusionPlan,
    pair: Pair,
    work: Workplace,
    max_shard_bytes: float,
    hashes: Hashes,
    on_bytes: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, FileHashes], dict[str, str]]:
    """Write the planned tensors into `work.folder`; files that an earlier run finished stay.

    Returns:
        Hashes of the parents' files, by role; checksums of the written files.
    """
    planned = {tensor.name: tensor for tensor in plan.tensors}

    def pieces(name: str) -> Iterator[Tensor]:
        return made_blocks(planned[name], pair)

    def record(entry: str, found: Future[str]) -> None:
        if found.cancelled() or found.exception():
            jobs.stopped.set()
        else:
            work.journal.record_hash(entry, found.result())

    files = {hash_entry(parent, path): path for parent in (pair.text, pair.image) for path in parent.files}
    with Jobs(max(2, torch.get_num_threads())) as jobs:
        # The hashes' threads read ahead of the threads that compute and write.
        for entry, path in files.items():
            if entry not in work.journal.hashes:
                hashes.begin(path).add_done_callback(partial(record, entry))
        checksums = write_checkpoint(
            work.folder,
            plan.infos,
            pieces,
            jobs,
            work.journal,
            max_shard_bytes,
            on_written=lambda done: on_bytes(done, plan.bytes) if on_bytes is not None else None,
        )
        known = {entry: work.journal.hashes.get(entry) or hashes.of(path) for entry, path in files.items()}
    of_parents = {
        parent.role: {path.name: known[hash_entry(parent, path)] for path in parent.files}
        for parent in (pair.text, pair.image)
    }
    return of_parents, checksums


def hash_entry(parent: Parent, path: Path) -> str:
    """The name of a parent's file in the journal."""
    return f"{parent.role}/{path.name}"


def made_blocks(tensor: PlannedTensor, pair: Pair) -> Iterator[Tensor]:
    """A planned tensor in consecutive blocks of rows, computed and rounded; a block is valid until the next block."""
    tables = [pair.parent(source.role).table(source.name) for source in tensor.sources]
    return rounded(tensor.compute(*tables), tensor.dtype, tensor.name)


def rounded(blocks: Iterable[Tensor], dtype: torch.dtype, name: str) -> Iterator[Tensor]:
    """Blocks of the tensor `name` in another data type; a converted block is valid until the next block.

    Raises:
        ValueError: a finite number becomes infinite in float16.
    """
    buffer = torch.empty(0, dtype=dtype)
    for block in blocks:
        if block.dtype == dtype:
            yield block
            continue
        if buffer.numel() < block.numel():
            buffer = torch.empty(block.numel(), dtype=dtype)
        converted = buffer[: block.numel()].view(block.shape).copy_(block)
        if dtype == torch.float16 and (lost := converted.isinf() & block.isfinite()).any():
            raise ValueError(
                f"{name} has {block[lost].abs().max():g}, and float16 ends at {torch.finfo(dtype).max:g}: it would be "
                "infinite, and the model's every answer nan; take --dtype bfloat16 or float32"
            )
        yield converted


def fingerprint(plan: FusionPlan, pair: Pair, options: dict[str, Any]) -> str:
    """Hash of all that decides the written files: plan, options, sizes and times of change of the parents' files."""
    files = []
    for parent in (pair.text, pair.image):
        paths = [*parent.folder.glob("*"), *parent.folder.glob("tokenizer/*")]
        stats = {str(path.relative_to(parent.folder)): path.stat() for path in sorted(paths) if path.is_file()}
        files.append({name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()})
    rows = [asdict(pair.text_rows), asdict(pair.image_rows)]
    described = [version(), plan.to_json(), plan.settings, options, rows, files]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
