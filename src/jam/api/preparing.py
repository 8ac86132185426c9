"""Token shards from documents."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jam.api.loading import context_of, load_codec
from jam.data import MAX_REJECTS, check_limit, open_sources, refuse_prepared, warm_up
from jam.data import prepare as prepare_sources


def prepare(
    documents: Sequence[str | Path],
    model: str | Path,
    out: str | Path,
    *,
    workers: int = 1,
    max_rejects: int | float = MAX_REJECTS,
    device: str | None = None,
    allowed_media_path: Path | None = None,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Turn documents into token shards for `train`; an equal call resumes a killed call.

    Args:
        documents: JSON lines (also .gz), Parquet, WebDataset tars, folders of such files, or ``datasets:NAME?...``.
        model: model folder with the tokenizers.
        out: folder to write; a finished folder is refused.
        workers: number of processes with one thread each; it does not change the result.
        max_rejects: largest number of bad documents, or their largest share if below 1; the call fails above it.
        device: device of the image tokenizer; None: a GPU if there is one.
        allowed_media_path: another folder that may hold pictures of files.
        on_progress: is called with the counts so far, after every block.

    Returns:
        The counts: ``documents``, ``images``, ``tokens``, ``rejects``, and the ``share`` of the input that is done.

    Raises:
        ValueError: `out` is finished, an input is missing or broken, or too many documents are bad.
    """
    out = Path(out)
    refuse_prepared(out)
    check_limit(max_rejects)
    if workers < 1:
        raise ValueError(f"workers is {workers}; it must be 1 or more (this machine has {os.cpu_count()} cores)")
    sources = open_sources(documents, allowed_media_path)
    warm_up(workers)
    codec, context = load_codec(model, device), context_of(model)
    counts: dict[str, Any] = {}
    for counts in prepare_sources(sources, codec, out, workers, max_rejects, context):
        if on_progress is not None:
            on_progress(counts)
    return counts
