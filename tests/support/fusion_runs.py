"""Runs of `jam fuse` in processes of their own, so that they can be killed, and what they leave behind."""

from __future__ import annotations

import hashlib
import multiprocessing
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytest import MonkeyPatch
from transformers import AutoModelForCausalLM

from support import faults
from support.fusion_parents import CODES, TEXT_SIZE, llama_config, run, save_parent

FORKS = multiprocessing.get_context("fork")  # a child has everything imported


def save_llamas(folder: Path, **changes: Any) -> None:
    for role, codes, seed in (("text", 0, 1), ("image", CODES, 2)):
        save_parent(folder / role, llama_config(TEXT_SIZE + codes, **changes), seed)


def killed(
    folder: Path, after: float | None = None, at: str | None = None, fuse: Callable[..., Any] = run, **options: Any
) -> float:
    """Fuse in a process that is killed `after` seconds, or by itself `at` a step; the seconds that it lived.

    Without either it lives to its end, for which it has two minutes.
    """
    child = FORKS.Process(target=_fuse, args=(folder, at, fuse, options))
    child.start()
    started = time.monotonic()
    child.join(120 if after is None else after)
    if child.is_alive():
        child.kill()
        child.join()
        assert after is not None, "it does not end"
    else:
        assert child.exitcode == (0 if at is None else -signal.SIGKILL), child.exitcode
    return time.monotonic() - started


def _fuse(folder: Path, at: str | None, fuse: Callable[..., Any], options: dict[str, Any]) -> None:
    if at is not None:
        _arm(at)
    fuse(folder, **options)


def _arm(at: str) -> None:
    """Kill this process within a step, given as "step" or "step number" for its n-th time."""
    import jam.checkpoints.resume
    import jam.checkpoints.shards
    import jam.codec.files

    step, _, number = at.partition(" ")

    def before(owner: Any, name: str, wanted: Any = lambda *_, **__: True) -> None:
        faults.at_call(MonkeyPatch(), owner, name, faults.die, int(number or 1), wanted)

    match step:
        case "piece":
            before(jam.checkpoints.shards, "_write_at")
        case "journal":
            before(jam.checkpoints.resume.Journal, "record_shard")
        case "manifest":
            before(jam.checkpoints.Manifest, "save")
        case "tokenizer":
            before(jam.codec.files.InsideCheckpoint, "_blocks")
        case "folder":
            before(Path, "rename", lambda path, _: path.name == "model")
        case "config":
            before(Path, "rename", lambda path, _: path.name == "config.json")
        case "cleanup":
            before(jam.checkpoints.resume.shutil, "rmtree", lambda path, **_: path.name == ".out.partial")
        case _:
            raise AssertionError(step)


def hash_of(folder: Path) -> str:
    """Of every file's name and bytes."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return digest.hexdigest()


def models_in(folder: Path) -> list[str]:
    """Folders in `folder`, the parents apart, that open as a model."""
    found = []
    for path in (path for path in folder.rglob("*") if path.is_dir()):
        name = str(path.relative_to(folder))
        if name not in ("text", "image"):
            try:
                AutoModelForCausalLM.from_pretrained(path, local_files_only=True)
            except (OSError, ValueError):
                continue
            found.append(name)
    return sorted(found)


def grown_memory(folder: Path, queue: Any) -> None:
    """Put into the queue by how many bytes the peak of resident memory grows while a pair is fused."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run(folder, method="uniform")
    queue.put(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
