"""Comparison of a fused model with each parent on the parent's own modality.

The fused model runs first; afterwards only its hidden states and its head are needed. The layers of a parent and of the
fused model are therefore never in memory together.

Shapes: T positions, N measured positions, V joint vocabulary, H width of `hidden`, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from jam.evaluation.samples import Sample, pictures_of, text_of
from jam.grammar import Grammar, State
from jam.models import JointModel, JointTower, SingleDecoder
from jam.models.scoring import Perplexity

SLICE = 256  # positions whose logits are in memory at once


@dataclass(frozen=True)
class Kept:
    """The comparison with one parent over all measured positions.

    Only the parent's own rows are compared, since a parent has no logits for new control tokens. Perplexities are over
    the ids that the grammar allows; only the fused model's include the new control rows.

    Args:
        tokens: number of measured positions.
        max_logit_difference: greatest logit difference, infinite if a model computes anything but numbers.
        changed_tokens: positions where another row of the parent has the greatest logit (greedy decoding).
        parent_ppl, fused_ppl: perplexity of the targets; None without targets.
        new_control_probability: mean probability of the control rows that the parent lacks.
    """

    tokens: int
    max_logit_difference: float
    changed_tokens: int
    parent_ppl: float | None
    fused_ppl: float | None
    new_control_probability: float


@dataclass(frozen=True)
class Retention:
    """The comparisons with both parents."""

    text: Kept
    image: Kept

    @property
    def text_difference(self) -> float:
        return self.text.max_logit_difference

    @property
    def image_difference(self) -> float:
        return self.image.max_logit_difference

    @property
    def max_logit_difference(self) -> float:
        return max(self.text_difference, self.image_difference)

    @property
    def new_control_probability(self) -> float:
        """The probability in text; inside an image the grammar allows no control tokens."""
        return self.text.new_control_probability


class Network(Protocol):
    """The interface of a fused model, or of one of its towers; a `JointModel` has it."""

    @property
    def device(self) -> torch.device: ...

    def hidden(self, input_ids: Tensor) -> Tensor: ...

    def logits(self, hidden: Tensor, states: Tensor) -> Tensor: ...


class LoneTower:
    """A tower of a cross model, which computes its modality's logits alone if the exchange is the identity."""

    def __init__(self, tower: JointTower, image: bool) -> None:
        self.tower, self.image = tower, image

    @property
    def device(self) -> torch.device:
        return self.tower.absent_input.device

    def hidden(self, input_ids: Tensor) -> Tensor:
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        return self.tower(self.tower.embed(input_ids), positions)

    def logits(self, hidden: Tensor, states: Tensor) -> Tensor:
        return self.tower.columns(hidden, self.image)


@dataclass
class Trace:
    """The hidden states of a fused model on samples.

    Args:
        hidden: hidden states ``[T, H]`` of each sample, for `logits`.
        read: embeddings ``[T, D]`` of each sample, or None if the parent has rows for all ids.
    """

    samples: Sequence[Sample]
    hidden: list[Tensor]
    read: list[Tensor | None]
    network: Network

    def logits(self, index: int, at: Tensor) -> Tensor:
        """Logits ``[N, V]`` of a sample at the positions `at`."""
        states = self.samples[index].states.to(self.network.device)
        return self.network.logits(self.hidden[index][at], states[at])


@torch.inference_mode()
def trace(network: Network, samples: Sequence[Sample], tower: JointTower | None = None) -> Trace:
    """The trace of a model on samples, one sample per forward pass as for a parent.

    Args:
        tower: tower of the parent for the comparison; None: the parent reads ids that it lacks as its mean row, not as
            the fused model reads them.
    """
    traced = Trace(samples, [], [], network)
    for sample in samples:
        ids = sample.inputs.to(network.device)[None]
        traced.hidden.append(network.hidden(ids)[0])
        lacking = tower is not None and bool((tower.joint_rows.parent_row[ids] < 0).any())
        traced.read.append(tower.embed(ids)[0] if tower is not None and lacking else None)
    return traced


@torch.inference_mode()
def compare(fused: Trace, parent: SingleDecoder, grammar: Grammar, image: bool) -> Kept:
    """The comparison of a fused model's trace with a parent on the same samples.

    Args:
        parent: parent with the fused model's joint ids, possibly without images and some controls.
        grammar: grammar of the fused model.
        image: True compares image codes, False text.
    """
    device, grammars = parent.device, (grammar, parent.grammar)
    new = slice(grammar.vocabulary.control_start + parent.joint_rows.controls, None)
    allowed = [g.allowed().to(device) for g in grammars]
    text = allowed[0][State.TEXT, : parent.joint_rows.rows.text_size].nonzero().flatten()
    own = [slice(g.vocabulary.image_start, g.vocabulary.control_start) if image else text for g in grammars]
    counts = Perplexity(), Perplexity()
    difference, changed, new_probability = 0.0, 0, 0.0
    for index, sample in enumerate(fused.samples):
        hidden = _parent_hidden(parent, sample.inputs.to(device), fused.read[index])
        for at in sample.at.to(device).split(SLICE):
            targets, states = sample.targets.to(device)[at], sample.states.to(device)[at]
            logits = [fused.logits(index, at).float(), parent.logits(hidden[at]).float()]
            ours, theirs = (scores[:, rows] for scores, rows in zip(logits, own, strict=True))
            difference = max(difference, _greatest_difference(ours, theirs))
            changed += int((ours.argmax(-1) != theirs.argmax(-1)).sum())
            for scores, table, count in zip(logits, allowed, counts, strict=True):
                _count(count, scores.masked_fill_(~table[states], -torch.inf), targets)
            new_probability += float(logits[0].softmax(-1)[:, new].double().sum())
    tokens = counts[0].text_tokens
    return Kept(
        tokens=tokens,
        max_logit_difference=difference,
        changed_tokens=changed,
        parent_ppl=counts[1].report()["all_ppl"],
        fused_ppl=counts[0].report()["all_ppl"],
        new_control_probability=new_probability / max(1, tokens),
    )


@torch.inference_mode()
def perplexity_of(fused: Trace, grammar: Grammar) -> tuple[float | None, int]:
    """Perplexity of the measured targets within the grammar (None without targets), and the number of targets."""
    counts, device = Perplexity(), fused.network.device
    allowed = grammar.allowed().to(device)
    for index, sample in enumerate(fused.samples):
        for at in sample.at.to(device).split(SLICE):
            targets, states = sample.targets.to(device)[at], sample.states.to(device)[at]
            _count(counts, fused.logits(index, at).float().masked_fill_(~allowed[states], -torch.inf), targets)
    return counts.report()["all_ppl"], counts.text_tokens


def compare_with_parents(
    fused: JointModel,
    text_parent: SingleDecoder,
    image_parent: SingleDecoder,
    texts: Iterable[Sequence[int]],
    pictures: Iterable[Sequence[int]],
) -> Retention:
    """The comparisons of models in memory, on joint ids of documents with text and of documents with pictures."""
    kept = []
    for parent, documents, image in ((text_parent, texts, False), (image_parent, pictures, True)):
        sample_of = pictures_of if image else text_of
        samples = [sample for ids in documents if (sample := sample_of(ids, fused.grammar)) is not None]
        kept.append(
            compare(trace(fused, samples, fused.tower_of("image" if image else "text")), parent, fused.grammar, image)
        )
    return Retention(*kept)


def _parent_hidden(parent: SingleDecoder, inputs: Tensor, read: Tensor | None) -> Tensor:
    """Hidden states ``[T, H]`` of a parent on joint ids ``[T]``; `read`, ``[T, D]``, replaces missing rows."""
    ids = inputs[None]
    if read is None:
        return parent.hidden(ids)[0]
    row = parent.joint_rows.parent_row[ids]
    embedded = torch.where((row >= 0)[..., None], parent.tower.embedding(row.clamp(min=0)), read[None])
    return parent.tower(embedded, torch.arange(len(inputs), device=inputs.device)[None])[0]


def _count(counts: Perplexity, logits: Tensor, targets: Tensor) -> None:
    nll = F.cross_entropy(logits, targets, reduction="none")
    counts.add(nll, torch.zeros_like(targets, dtype=torch.bool))


def _greatest_difference(a: Tensor, b: Tensor) -> float:
    """The greatest absolute difference; infinite if a value is no number."""
    return float((a - b).abs().nan_to_num(nan=torch.inf).max()) if a.numel() else 0.0
