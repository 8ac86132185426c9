"""Perplexity of a model on documents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jam import evaluation
from jam.api.documents import Given, read_all
from jam.api.loading import load
from jam.api.model import Model


def evaluate(
    model: Model | str | Path,
    documents: Given,
    batch_size: int = 4,
    *,
    allowed_media_path: Path | None = None,
    on_documents: Callable[[int], None] | None = None,
    leave_out: Callable[[str], None] | None = None,
) -> dict[str, float | int | None]:
    """Perplexities of text, of images and of both, with numbers of tokens.

    Args:
        model: a model, or a model folder.
        documents: `Document` objects, or files of documents.
        batch_size: packed sequences in a forward.
        allowed_media_path: another folder that may hold pictures of files.
        on_documents: is called with the number of newly measured documents.
        leave_out: is called with the reason for each document that is too long; None: such a document is an error.

    Raises:
        ValueError: a file or a document cannot be read, or a document is too long.

    >>> report = jam.evaluate(jam.PARENTS / "text", [jam.Document([jam.Text("Draw a red house.")])])
    >>> sorted(report)
    ['all_ppl', 'all_tokens', 'image_ppl', 'image_tokens', 'text_ppl', 'text_tokens']
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be 1 or more")
    loaded = model if isinstance(model, Model) else load(model)
    found = read_all(documents, allowed_media_path)
    return evaluation.evaluate(loaded.joint, loaded.codec, found, batch_size, on_documents, leave_out)
