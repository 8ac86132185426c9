"""Perplexity by modality: exp of the mean cross-entropy over text targets, image targets, and all targets.

`<break>`, `</s>` and other controls count as text; in messages only the answer is measured. For all models, the softmax
runs over the ids that the grammar allows, so that fusions with one softmax and fusions with one per modality can be
compared; the paper's numbers are over all ids.
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
    """Perplexities of a model on documents; longer documents are split as in training.

    Args:
        batch_size: packed sequences of the model's context in one forward pass.
        on_documents: function that gets the number of documents that were just measured.
        leave_out: function that gets place and reason of a document that cannot be split for the model's context and is
            not measured. None: such a document is an error.

    Returns:
        ``{"text_ppl", "image_ppl", "all_ppl", "text_tokens", "image_tokens", "all_tokens"}``; a perplexity without
        targets is None.

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
    # Short documents fill short sequences, since attention is quadratic in the length of a sequence.
    length = min(context, max(longest, 512))
    allowed = model.grammar.allowed().to(model.device)
    for batch in plain_batches(pieces, model.grammar, length, batch_size):
        batch = batch.to(model.device)
        hidden = model.hidden(batch.inputs, batch.positions, batch.packed)
        at = (batch.weights.flatten() > 0).nonzero()[:, 0]
        targets, states = batch.targets.flatten()[at], batch.states.flatten()[at]
        nll = token_nll(model, hidden.flatten(0, 1)[at], targets, states, allowed)
        counts.add(nll, (targets >= vocabulary.image_start) & (targets < vocabulary.control_start))
