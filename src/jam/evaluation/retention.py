"""What a fused model kept of its parents: each parent and the fused model on the parent's own modality.

The fused model goes first; of it only its hidden states and its head are needed from then on. So the layers of a parent
and of the fused model never have to be in memory together.

Shapes: T positions, N measured ones, V joint vocabulary, H what `hidden` returns, D width of an embedding.
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
    """What was kept of one parent, over all measured positions.

    Only the parent's own rows are compared: a parent has no logit for a control token it never had. Perplexities are
    within what the grammar allows, for the fused model with the new control rows, which the parent lacks.

    Args:
        tokens: number of measured positions.
        max_logit_difference: the greatest, infinite if a model computes something else than numbers.
        changed_tokens: positions where another row of the parent's has the greatest logit (greedy decoding).
        parent_ppl, fused_ppl: perplexity of the targets; None if there are none.
        new_control_probability: what the control rows that the parent lacks take, on average.
    """

    tokens: int
    max_logit_difference: float
    changed_tokens: int
    parent_ppl: float | None
    fused_ppl: float | None
    new_control_probability: float


@dataclass(frozen=True)
class Retention:
    """What was kept of both parents."""

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
        """In text; inside an image the grammar allows none."""
        return self.text.new_control_probability


class Network(Protocol):
    """What is needed of a fused model, or of one tower of it; a `JointModel` has it."""

    @property
    def device(self) -> torch.device: ...

    def hidden(self, input_ids: Tensor) -> Tensor: ...

    def logits(self, hidden: Tensor, states: Tensor) -> Tensor: ...


class LoneTower:
    """One tower of a cross model, which alone computes its modality's logits where the exchange is the identity."""

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
    """What a fused model made of samples.

    Args:
        hidden: its states ``[T, H]`` on each; `logits` reads them.
        read: what it reads ``[T, D]`` where the parent has no row for an id; None where the parent has them all.
    """

    samples: Sequence[Sample]
    hidden: list[Tensor]
    read: list[Tensor | None]
    network: Network

    def logits(self, index: int, at: Tensor) -> Tensor:
        """Logits ``[N, V]`` of a sample at these positions."""
        states = self.samples[index].states.to(self.network.device)
        return self.network.logits(self.hidden[index][at], states[at])


@torch.inference_mode()
def trace(network: Network, samples: Sequence[Sample], tower: JointTower | None = None) -> Trace:
    """Run a model on samples, one a forward: the very computation of a parent.

    Args:
        tower: the one made of the parent that it will be compared with; None: an id that the parent lacks is read by
            the parent as its mean row, not as the fused model reads it.
    """
    made = Trace(samples, [], [], network)
    for sample in samples:
        ids = sample.inputs.to(network.device)[None]
        made.hidden.append(network.hidden(ids)[0])
        lacking = tower is not None and bool((tower.joint_rows.parent_row[ids] < 0).any())
        made.read.append(tower.embed(ids)[0] if tower is not None and lacking else None)
    return made


@torch.inference_mode()
def compare(fused: Trace, parent: SingleDecoder, grammar: Grammar, image: bool) -> Kept:
    """Run a parent on the samples of a trace.

    Args:
        parent: its joint ids are the fused model's, but may lack those of images and some controls.
        grammar: the fused model's.
        image: compare image codes; else text.
    """
    device, grammars = parent.device, (grammar, parent.grammar)
    new = slice(grammar.vocabulary.control_start + parent.joint_rows.controls, None)
    allowed = [one.allowed().to(device) for one in grammars]
    text = allowed[0][State.TEXT, : parent.joint_rows.rows.text_size].nonzero().flatten()
    own = [slice(one.vocabulary.image_start, one.vocabulary.control_start) if image else text for one in grammars]
    counts = Perplexity(), Perplexity()
    difference, changed, new_probability = 0.0, 0, 0.0
    for index, sample in enumerate(fused.samples):
        hidden = _parent_hidden(parent, sample.inputs.to(device), fused.read[index])
        for at in sample.at.to(device).split(SLICE):
            targets, states = sample.targets.to(device)[at], sample.states.to(device)[at]
            logits = [fused.logits(index, at).float(), parent.logits(hidden[at]).float()]
            ours, theirs = (one[:, rows] for one, rows in zip(logits, own, strict=True))
            difference = max(difference, _greatest_difference(ours, theirs))
            changed += int((ours.argmax(-1) != theirs.argmax(-1)).sum())
            for one, table, count in zip(logits, allowed, counts, strict=True):
                _count(count, one.masked_fill_(~table[states], -torch.inf), targets)
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
    """Perplexity of the measured targets within the grammar (None: there are none), and their number."""
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
    """Compare models that are in memory, on joint ids of `texts` and of `pictures`, documents that have some."""
    kept = []
    for parent, documents, image in ((text_parent, texts, False), (image_parent, pictures, True)):
        sample_of = pictures_of if image else text_of
        samples = [sample for ids in documents if (sample := sample_of(ids, fused.grammar)) is not None]
        kept.append(
            compare(trace(fused, samples, fused.tower_of("image" if image else "text")), parent, fused.grammar, image)
        )
    return Retention(*kept)


def _parent_hidden(parent: SingleDecoder, inputs: Tensor, read: Tensor | None) -> Tensor:
    """States ``[T, H]`` of a parent on joint ids ``[T]``; `read`, ``[T, D]``, is put in where it has no row."""
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
    """Infinite where one of the two is no number."""
    return float((a - b).abs().nan_to_num(nan=torch.inf).max()) if a.numel() else 0.0
