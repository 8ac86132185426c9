"""Perplexity by modality: exp of the mean cross-entropy over text targets, image targets, and all of them.

`<break>`, `</s>` and other controls count as text; of messages only the answer is measured. The softmax runs inside
what the grammar allows, for every model alike, so that fusions with one softmax over everything and with one a modality
can be compared; the paper's numbers are over everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice

import torch

from jam.codec import Codec, Encoded
from jam.data import plain_batches, split
from jam.data.prepare import encode_fitting
from jam.documents import Document
from jam.models import JointModel
from jam.models.scoring import Perplexity, token_nll

GROUP = 64  # documents that are packed together


@torch.inference_mode()
def evaluate(
    model: JointModel,
    codec: Codec,
    documents: Iterable[Document],
    batch_size: int = 4,
    on_documents: Callable[[int], None] | None = None,
    leave_out: Callable[[str], None] | None = None,
) -> dict[str, float | int | None]:
    """Measure a model on documents; longer ones are split as in training.

    Args:
        batch_size: packed sequences of the model's context in one forward.
        on_documents: called with the number of documents that were just measured.
        leave_out: told where a document stands, and why, whose question, or a picture behind it, leaves no room in the
            model's context: it is not measured. None: that is an error.

    Returns:
        ``{"text_ppl", "image_ppl", "all_ppl", "text_tokens", "image_tokens", "all_tokens"}``; a perplexity is None
        where there are no such targets.

    Raises:
        ValueError: a document cannot be read, or (without `leave_out`) cannot be measured.
    """
    counts = Perplexity()
    encoded = encode_fitting(documents, codec, model.context_length, leave_out or _refuse)
    while group := list(islice(encoded, GROUP)):
        measure(model, group, batch_size, counts)
        if on_documents is not None:
            on_documents(len(group))
    return counts.report()


def _refuse(reason: str) -> None:
    raise ValueError(reason)


def measure(model: JointModel, group: list[Encoded], batch_size: int, counts: Perplexity) -> None:
    """Add encoded documents to `counts`."""
    vocabulary = model.vocabulary
    context = model.context_length
    pieces = [piece for document in group for piece in split(document, context + 1, vocabulary)]
    longest = max(len(piece.ids) for piece in pieces) - 1
    # Short documents are packed into sequences of a few documents each: attention is quadratic in their length.
    length = min(context, max(longest, 512))
    allowed = model.grammar.allowed().to(model.device)
    for batch in plain_batches(pieces, model.grammar, length, batch_size):
        batch = batch.to(model.device)
        hidden = model.hidden(batch.inputs, batch.positions, batch.packed)
        at = (batch.weights.flatten() > 0).nonzero()[:, 0]
        targets, states = batch.targets.flatten()[at], batch.states.flatten()[at]
        nll = token_nll(model, hidden.flatten(0, 1)[at], targets, states, allowed)
        counts.add(nll, (targets >= vocabulary.image_start) & (targets < vocabulary.control_start))
