"""Labels of one document: inputs, targets, states of the targets and weights. No other module makes labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jam import cm3
from jam.codec import Encoded
from jam.grammar import Grammar, State
from jam.vocabulary import Vocabulary


@dataclass(frozen=True)
class Objective:
    """Settings of masking and of the weights of targets.

    Args:
        cm3: draw spans by the causally masked objective; False trains on documents as they are.
        unconditional_rate: probability that a captioned picture masks exactly its whole text (guidance needs it).
        sentinel_weight: weight of predicting a sentinel inside the source (1 in the authors' code, 0 in the CM3 paper).
        image_weight: weight of image tokens, relative to text tokens.
        part_rate: probability that a document masks exactly one whole part, a picture or a text (to fill gaps).
    """

    cm3: bool = True
    unconditional_rate: float = 0.1
    sentinel_weight: float = 0.0
    image_weight: float = 1.0
    part_rate: float = 0.0


PLAIN = Objective(cm3=False, unconditional_rate=0.0)


@dataclass(frozen=True)
class Example:
    """One document of ``L + 1`` ids as arrays ``[L]``; position t predicts `targets[t]`, in state `states[t]`."""

    inputs: np.ndarray
    targets: np.ndarray
    states: np.ndarray
    weights: np.ndarray

    def __len__(self) -> int:
        return len(self.inputs)


def draw_spans(
    encoded: Encoded, vocabulary: Vocabulary, objective: Objective, rng: np.random.Generator
) -> list[cm3.Span]:
    """The spans of the main part to mask; documents in front stay, as in the prompts of generation."""
    spans: list[cm3.Span] = []
    if not encoded.is_asked and rng.random() < objective.unconditional_rate:
        spans = cm3.text_spans(encoded.ids, vocabulary, encoded.main_start)
    if not spans and objective.part_rate and rng.random() < objective.part_rate:
        spans = cm3.part_span(encoded.ids, vocabulary, rng, encoded.main_start)
    if not spans and objective.cm3:
        spans = cm3.draw_spans(encoded.ids, vocabulary, rng, encoded.main_start)
    return spans


def example_length(encoded: Encoded, spans: Sequence[cm3.Span], vocabulary: Vocabulary, limit: int) -> int:
    """Number of positions of the example that `label` would make with these spans."""
    ids, start = encoded.ids, encoded.main_start
    plain = len(ids) - 1
    masked = plain + 3 * len(spans) + (bool(spans) and not vocabulary.ends_document(ids[-1]))
    if masked <= limit:
        return masked
    stays = np.zeros(len(ids), dtype=bool)
    stays[cm3.text_places(ids[start:], vocabulary) + start] = True
    for left, right in spans:
        stays[left:right] = False  # relocated ids are not cut
    return limit if stays.sum() > masked - limit else plain


def make_example(
    encoded: Encoded, grammar: Grammar, objective: Objective, rng: np.random.Generator, limit: int | None = None
) -> Example:
    """The example of one document with randomly masked spans (see `label`)."""
    spans = draw_spans(encoded, grammar.vocabulary, objective, rng)
    return label(encoded, spans, grammar, objective, limit)


def label(
    encoded: Encoded, spans: Sequence[cm3.Span], grammar: Grammar, objective: Objective, limit: int | None = None
) -> Example:
    """The example of one document with the given spans masked.

    Ids have the weights of their segments. Targets that tell nothing about documents have weight 0: sentinels that open
    relocated spans (the grammar forces them), frames of images after the first token, the ``</s>`` that closes a masked
    piece early (the document continues elsewhere), and the first id after a cut. `limit`: the largest number of
    positions.
    """
    vocabulary = grammar.vocabulary
    ids, start = encoded.ids, encoded.main_start
    masked = cm3.mask(ids, spans, vocabulary)
    closed_early = bool(spans) and not vocabulary.ends_document(ids[-1])
    after_cuts = np.array([], dtype=np.int64)
    if limit is not None and len(masked) > limit + 1:
        kept = cm3.trim(masked, limit + 1, vocabulary, start)
        if kept is None:
            masked, closed_early = ids, False
        else:
            masked, after_cuts = [masked[place] for place in kept], np.flatnonzero(np.diff(kept) > 1)
    sequence = np.asarray(masked, dtype=np.int64)
    states, targets = grammar.state_array(sequence)[1:], sequence[1:]
    is_image = (targets >= vocabulary.image_start) & (targets < vocabulary.control_start)
    weights = np.where(is_image, objective.image_weight, 1.0).astype(np.float32)
    weights[(states == State.CLOSED) | (states == State.FRAME)] = 0.0
    in_source = (states == State.TEXT) | (states == State.MASKED_IMAGE)
    weights[in_source & (targets >= vocabulary.sentinel_start)] = objective.sentinel_weight
    if closed_early:
        weights[max(0, start - 1) :][targets[max(0, start - 1) :] == vocabulary.eos_id] = 0.0
    weights[after_cuts] = 0.0  # the id does not follow the text before the cut
    by_segment = np.full(len(sequence), encoded.segments[-1].weight, dtype=np.float32)
    by_segment[:start] = encoded.weights()[:start]  # only ids of the main part are moved or cut
    weights *= by_segment[1:]
    return Example(sequence[:-1], targets, states, weights)
