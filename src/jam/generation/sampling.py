"""Temperature and top-p, for all rows at once. Shapes: R rows, V vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor

from jam.generation.settings import GenerationSettings


def draws(settings: GenerationSettings, count: int) -> Tensor:
    """One row's uniform numbers, fp32 [count]: the n-th decides the n-th new token and nothing else does.

    They are drawn ahead and on the CPU, so that a document depends neither on its neighbours nor on the device.
    """
    return torch.rand(count, generator=torch.Generator().manual_seed(settings.seed))


def sample(logits_RV: Tensor, temperature_R: Tensor, top_p_R: Tensor, uniform_R: Tensor) -> Tensor:
    """One token a row, [R]. Ids with logit -inf are never taken; temperature 0 takes the most probable id.

    Sampling inverts the distribution function in the order of ids, not of probabilities: two ids that are almost
    equally probable may then swap ranks (another batch size rounds differently) without changing what is drawn.
    """
    greedy_R = temperature_R == 0
    if greedy_R.all():
        return logits_RV.argmax(-1)
    divisor_R1 = temperature_R.masked_fill(greedy_R, 1.0).unsqueeze(-1)
    logits_RV = logits_RV.float()
    probs_RV = ((logits_RV - logits_RV.amax(-1, keepdim=True)) / divisor_R1).softmax(-1)  # at most 0: cannot overflow
    if (top_p_R < 1).any():
        probs_RV = _nucleus(probs_RV, top_p_R)
    cumulative_RV = probs_RV.cumsum(-1)
    total_R = cumulative_RV.amax(-1)
    # Rounding may lift u * total to total, beyond every id: stay below it.
    target_R = torch.minimum(uniform_R * total_R, torch.nextafter(total_R, torch.zeros_like(total_R)))
    reached_RV = (cumulative_RV > target_R.unsqueeze(-1)) & (probs_RV > 0)
    drawn_R = reached_RV.to(torch.uint8).argmax(-1)  # the first id that reaches the target
    return torch.where(greedy_R, logits_RV.argmax(-1), drawn_R)


def _nucleus(probs_RV: Tensor, top_p_R: Tensor) -> Tensor:
    """Zero outside the smallest set of ids that has probability top_p (ids as probable as its last one stay)."""
    sorted_RV = probs_RV.sort(-1, descending=True).values
    before_RV = sorted_RV.cumsum(-1) - sorted_RV  # probability of everything more probable
    size_R = (before_RV < top_p_R.unsqueeze(-1)).sum(-1).clamp(min=1)
    floor_R = sorted_RV.gather(-1, size_R.unsqueeze(-1) - 1).squeeze(-1)
    floor_R = floor_R.masked_fill(top_p_R >= 1, 0.0)  # exactly everything, whatever the other rows ask for
    return torch.where(probs_RV >= floor_R.unsqueeze(-1), probs_RV, 0.0)
