"""Carry a plan out: read the parents in blocks, compute in fp32, write; parents are hashed meanwhile."""

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
"""SHA-256 by the name of a file."""


def write_weights(
    plan: FusionPlan,
    pair: Pair,
    work: Workplace,
    max_shard_bytes: float,
    hashes: Hashes,
    on_bytes: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, FileHashes], dict[str, str]]:
    """Write the planned tensors into `work.folder`, but for the files that an earlier run has finished.

    Returns:
        For "text" and "image" the hashes of the parent's files; and the checksums of the files written.
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
        # The hashes' own threads read ahead of those that compute and write.
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
    """A planned tensor in consecutive blocks of rows, computed and rounded; the next block may overwrite one."""
    tables = [pair.parent(source.role).table(source.name) for source in tensor.sources]
    return rounded(tensor.compute(*tables), tensor.dtype, tensor.name)


def rounded(blocks: Iterable[Tensor], dtype: torch.dtype, name: str) -> Iterator[Tensor]:
    """Blocks of the tensor `name` in another data type; a block that is changed lies in a buffer, until the next one.

    Raises:
        ValueError: a finite number is infinite in a type of 16 bits with few for the exponent.
    """
    buffer = torch.empty(0, dtype=dtype)
    for block in blocks:
        if block.dtype == dtype:
            yield block
            continue
        if buffer.numel() < block.numel():
            buffer = torch.empty(block.numel(), dtype=dtype)
        made = buffer[: block.numel()].view(block.shape).copy_(block)
        if dtype == torch.float16 and (lost := made.isinf() & block.isfinite()).any():
            raise ValueError(
                f"{name} has {block[lost].abs().max():g}, and float16 ends at {torch.finfo(dtype).max:g}: it would be "
                "infinite, and the model's every answer nan; take --dtype bfloat16 or float32"
            )
        yield made


def fingerprint(plan: FusionPlan, pair: Pair, options: dict[str, Any]) -> str:
    """Hash of all that decides the written files: plan, options, and size and time of change of the parents' files."""
    files = []
    for parent in (pair.text, pair.image):
        paths = [*parent.folder.glob("*"), *parent.folder.glob("tokenizer/*")]
        stats = {str(path.relative_to(parent.folder)): path.stat() for path in sorted(paths) if path.is_file()}
        files.append({name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()})
    rows = [asdict(pair.text_rows), asdict(pair.image_rows)]
    described = [version(), plan.to_json(), plan.settings, options, rows, files]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
