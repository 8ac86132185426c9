"""Negative log-likelihoods of targets, and perplexity by modality; one place for training, evaluation and proofs."""

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
    """-log p(target) in nats, fp32 ``[N]``, from ``hidden [N, H]``, ``targets [N]`` and their states ``[N]``.

    Text and image targets go through the readout apart, so that a head is computed only where it answers.
    With `allowed` (`Grammar.allowed()`) the softmax runs inside the grammar for every model, not only for those whose
    readout does so by itself. `max_logits`: at most so many exist at a time (without gradients).
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
    """How targets were predicted, all ``[N]``: losses in nats, and whether the target had the greatest logit."""

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
    """Sum of the weighted losses of ``hidden [N, H]``, for training; the logits never exist as a whole.

    Piece by piece of the positions, logits are made, scored and differentiated at once, so that the backward pass finds
    the gradients of `hidden` and of the readout ready. Every parameter of the readout gets a gradient, if only zeros:
    processes that share them must agree on which have one.

    Args:
        weights: of the targets, ``[N]``.
        z_loss: weight of the squared logarithm of the softmax's sum.
        max_logits: a piece has at most so many logits, or one position.
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
            for index, more in enumerate(found[1:]):
                if more is not None:
                    sum_so_far = gradients[index]
                    gradients[index] = more.float() if sum_so_far is None else sum_so_far + more
        ctx.gradients = [hidden_gradient] + [
            torch.zeros_like(parameter, dtype=torch.float32) if gradient is None else gradient
            for gradient, parameter in zip(gradients, parameters, strict=True)
        ]
        ctx.dtypes = [hidden.dtype, *(parameter.dtype for parameter in parameters)]
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        gradients, ctx.gradients = ctx.gradients, None  # large, and asked for once
        first, *others = (
            (gradient * outer[0]).to(dtype) for gradient, dtype in zip(gradients, ctx.dtypes, strict=True)
        )
        return first, None, None, *others


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
