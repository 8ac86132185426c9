"""Negative log-likelihoods of targets, and perplexity by modality; one place for training, evaluation and proofs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from jam.grammar import IMAGE_STATES

if TYPE_CHECKING:
    from jam.models import JointModel


def token_nll(
    model: JointModel, hidden: Tensor, targets: Tensor, states: Tensor, allowed: Tensor | None = None
) -> Tensor:
    """-log p(target) in nats, fp32 ``[N]``, from ``hidden [N, H]``, ``targets [N]`` and their states ``[N]``.

    Text and image targets go through the readout apart, so that a head is computed only where it answers.
    With `allowed` (`Grammar.allowed()`) the softmax runs inside the grammar for every model, not only for those whose
    readout does so by itself.
    """
    is_image = IMAGE_STATES.to(states.device)[states]
    nll = hidden.new_zeros(len(targets), dtype=torch.float32)
    for selected in (~is_image, is_image):
        at = selected.nonzero()[:, 0]
        if len(at):
            logits = model.logits(hidden.index_select(0, at), states[at])
            if allowed is not None:
                logits = logits.masked_fill(~allowed[states[at]], -torch.inf)
            nll = nll.index_copy(0, at, F.cross_entropy(logits.float(), targets[at], reduction="none"))
    return nll


@dataclass
class Perplexity:
    """Sums of nats and counts of targets by modality: image codes are "image", all others "text", controls included."""

    text_nats: float = 0.0
    text_tokens: int = 0
    image_nats: float = 0.0
    image_tokens: int = 0

    def add(self, nll: Tensor, is_image: Tensor) -> None:
        """Count targets with losses ``nll [N]``; `is_image`, bool ``[N]``, says which are image codes."""
        self.image_nats += float(nll[is_image].double().sum())
        self.text_nats += float(nll[~is_image].double().sum())
        self.image_tokens += int(is_image.sum())
        self.text_tokens += int((~is_image).sum())

    def report(self) -> dict[str, float | int | None]:
        """Perplexities ``text_ppl``, ``image_ppl``, ``all_ppl`` (None: no such targets), counts ``text_tokens``, ..."""
        tokens = self.text_tokens + self.image_tokens
        return {
            "text_ppl": _ppl(self.text_nats, self.text_tokens),
            "image_ppl": _ppl(self.image_nats, self.image_tokens),
            "all_ppl": _ppl(self.text_nats + self.image_nats, tokens),
            "text_tokens": self.text_tokens,
            "image_tokens": self.image_tokens,
            "all_tokens": tokens,
        }


def _ppl(nats: float, tokens: int) -> float | None:
    if not tokens:
        return None
    mean = nats / tokens
    return math.exp(mean) if mean < 700 else math.inf
