"""Carry a plan out: read the parents in blocks, compute in fp32, write; parents are hashed meanwhile."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from threading import Event
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from torch import Tensor

from jam.checkpoints import Jobs, sha256_of, write_checkpoint
from jam.checkpoints.manifest import version
from jam.checkpoints.resume import Journal, Workplace
from jam.fusion.pair import Pair
from jam.fusion.parents import Parent
from jam.fusion.plan import FusionPlan

Hashes = dict[str, str]
"""SHA-256 by the name of a file."""


def write_weights(
    plan: FusionPlan, pair: Pair, work: Workplace, max_shard_bytes: float, console: Console
) -> dict[str, Hashes]:
    """Write the planned tensors into `work.folder`, but for the files that an earlier run has finished.

    Returns:
        For "text" and "image" the hashes of the parent's files.
    """
    planned = {tensor.name: tensor for tensor in plan.tensors}

    def pieces(name: str) -> Iterator[Tensor]:
        tensor = planned[name]
        tables = [pair.parent(source.role).table(source.name) for source in tensor.sources]
        return rounded(tensor.compute(*tables), tensor.dtype)

    # Two threads hash a parent each and so read ahead of the others, which compute and write.
    threads = max(2, torch.get_num_threads()) + 2
    with progress_bar(console) as progress, Jobs(threads) as jobs:
        task = progress.add_task("fusing", total=plan.bytes)
        parents = (pair.text, pair.image)
        hashes = {parent.role: jobs.submit(hash_files, parent, work.journal, jobs.stopped) for parent in parents}
        write_checkpoint(
            work.folder,
            plan.infos,
            pieces,
            jobs,
            work.journal,
            max_shard_bytes,
            on_written=lambda done: progress.advance(task, done),
        )
    return {role: future.result() for role, future in hashes.items()}


def rounded(blocks: Iterable[Tensor], dtype: torch.dtype) -> Iterator[Tensor]:
    """Blocks in another data type; a block that is changed lies in a buffer, until the next one."""
    buffer = torch.empty(0, dtype=dtype)
    for block in blocks:
        if block.dtype == dtype:
            yield block
            continue
        if buffer.numel() < block.numel():
            buffer = torch.empty(block.numel(), dtype=dtype)
        yield buffer[: block.numel()].view(block.shape).copy_(block)


def hash_files(parent: Parent, journal: Journal, stopped: Event) -> Hashes:
    """Hash a parent's files one after another, but for those in the journal. Raises ValueError for a damaged file."""
    hashes = {}
    for path in parent.files:
        entry = f"{parent.role}/{path.name}"
        if entry not in journal.hashes:
            sha256 = sha256_of(path, stopped)
            if stopped.is_set():
                break
            journal.record_hash(entry, sha256)
        hashes[path.name] = journal.hashes[entry]
    return hashes


def fingerprint(plan: FusionPlan, pair: Pair, options: dict[str, Any]) -> str:
    """Hash of all that decides the written files: plan, options, and size and time of change of the parents' files."""
    files = []
    for parent in (pair.text, pair.image):
        paths = [*parent.folder.glob("*"), *parent.folder.glob("tokenizer/*")]
        stats = {str(path.relative_to(parent.folder)): path.stat() for path in sorted(paths) if path.is_file()}
        files.append({name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()})
    rows = [asdict(pair.text_rows), asdict(pair.image_rows)]
    described = [version(), plan.to_json(), plan.config.to_json_string(), options, rows, files]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def progress_bar(console: Console) -> Progress:
    """Bytes, bytes per second and the time that remains; nothing where no one watches."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal)
