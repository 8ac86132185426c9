"""Negative log-likelihoods of targets, and perplexity by modality, for training, evaluation and proofs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from jam.grammar import IMAGE_STATES

if TYPE_CHECKING:
    from jam.models import JointModel


def token_nll(
    model: JointModel,
    hidden: Tensor,
    targets: Tensor,
    states: Tensor,
    allowed: Tensor | None = None,
    max_logits: int | None = None,
) -> Tensor:
    """-log p(target) in nats, fp32 ``[N]``, from ``hidden [N, H]``, ``targets [N]`` and ``states [N]``.

    The readout gets text and image targets apart, so that a head computes only its own targets. `allowed`
    (`Grammar.allowed()`) restricts the softmax to the grammar for readouts that do not. `max_logits`: largest number of
    logits at a time (without gradients).
    """
    nll = hidden.new_zeros(len(targets), dtype=torch.float32)
    size = len(targets) if max_logits is None else max(1, max_logits // model.vocabulary.size)
    for at in pieces(states, size):
        logits = model.logits(hidden.index_select(0, at), states[at])
        if allowed is not None:
            logits = logits.masked_fill(~allowed[states[at]], -torch.inf)
        nll = nll.index_copy(0, at, F.cross_entropy(logits.float(), targets[at], reduction="none"))
    return nll


def pieces(states: Tensor, size: int) -> Iterator[Tensor]:
    """Indices of the text targets among ``states [N]``, then of the image targets, at most `size` at a time."""
    is_image = IMAGE_STATES.to(states.device)[states]
    for selected in (~is_image, is_image):
        at = selected.nonzero()[:, 0]
        if len(at):
            yield from at.split(size)


@dataclass(frozen=True)
class Scores:
    """Losses of targets in nats ``[N]``, and True for targets with the greatest logit ``[N]``."""

    nll: Tensor
    is_right: Tensor


def weighted_loss(
    model: JointModel,
    hidden: Tensor,
    targets: Tensor,
    states: Tensor,
    weights: Tensor,
    z_loss: float = 0.0,
    max_logits: int = 2**25,
) -> tuple[Tensor, Scores]:
    """Sum of the weighted losses of ``hidden [N, H]``, for training, without all logits in memory.

    The forward pass computes, scores and differentiates the logits of a piece of positions at a time; the backward pass
    returns these gradients. Every parameter of the readout gets a gradient, which may be zero: processes that share
    parameters must agree on the parameters with gradients.

    Args:
        weights: weights of the targets, ``[N]``.
        z_loss: weight of the squared logarithm of the softmax's sum.
        max_logits: largest number of logits of a piece, which has at least one position.
    """
    nll = hidden.new_zeros(len(targets), dtype=torch.float32)
    is_right = torch.zeros_like(targets, dtype=torch.bool)

    def score(piece: Tensor, at: Tensor) -> Tensor:
        logits = model.logits(piece, states[at]).float()
        losses = F.cross_entropy(logits, targets[at], reduction="none")
        found = logits.gather(1, targets[at, None])[:, 0]
        nll[at] = losses.detach()
        is_right[at] = found.detach() >= logits.detach().amax(-1)
        if z_loss:
            losses = losses + z_loss * (losses + found).square()  # the sum's logarithm is nll + logit
        return (losses * weights[at]).sum()

    parameters = [parameter for parameter in model.readout_parameters() if parameter.requires_grad]
    size = max(1, max_logits // model.vocabulary.size)
    loss = _Pieces.apply(hidden, score, list(pieces(states, size)), *parameters)
    return loss, Scores(nll, is_right)


class _Pieces(torch.autograd.Function):
    """The sum of a function of pieces of `hidden`, differentiated in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, score: Callable[[Tensor, Tensor], Tensor], places: list[Tensor], *parameters: Tensor
    ) -> Tensor:
        total = hidden.new_zeros((), dtype=torch.float32)
        hidden_gradient = torch.zeros_like(hidden)
        gradients: list[Tensor | None] = [None] * len(parameters)
        for at in places:
            with torch.enable_grad():
                piece = hidden.index_select(0, at).detach().requires_grad_()
                loss = score(piece, at)
            found = torch.autograd.grad(loss, [piece, *parameters], allow_unused=True)
            total += loss.detach()
            hidden_gradient[at] = found[0]
            for index, gradient in enumerate(found[1:]):
                if gradient is not None:
                    total_gradient = gradients[index]
                    gradients[index] = gradient.float() if total_gradient is None else total_gradient + gradient
        ctx.gradients = [hidden_gradient] + [
            torch.zeros_like(parameter, dtype=torch.float32) if gradient is None else gradient
            for gradient, parameter in zip(gradients, parameters, strict=True)
        ]
        ctx.dtypes = [hidden.dtype, *(parameter.dtype for parameter in parameters)]
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        gradients, ctx.gradients = ctx.gradients, None  # large, and read once
        of_hidden, *of_parameters = (
            (gradient * outer[0]).to(dtype) for gradient, dtype in zip(gradients, ctx.dtypes, strict=True)
        )
        return of_hidden, None, None, *of_parameters


@dataclass
class Perplexity:
    """Sums of nats and counts of targets by modality: image codes are "image", all other ids are "text"."""

    text_nats: float = 0.0
    text_tokens: int = 0
    image_nats: float = 0.0
    image_tokens: int = 0

    def add(self, nll: Tensor, is_image: Tensor) -> None:
        """Add targets with losses ``nll [N]``; `is_image`, bool ``[N]``, is True for image codes."""
        self.image_nats += float(nll[is_image].double().sum())
        self.text_nats += float(nll[~is_image].double().sum())
        self.image_tokens += int(is_image.sum())
        self.text_tokens += int((~is_image).sum())

    def report(self) -> dict[str, float | int | None]:
        """Perplexities ``text_ppl``, ``image_ppl``, ``all_ppl`` (None without targets), counts ``text_tokens``, ..."""
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
