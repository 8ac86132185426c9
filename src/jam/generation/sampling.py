"""Temperature, top-k, top-p, min-p and the repetition penalty, for all rows at once. Shapes: R rows, V vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jam.generation.settings import GenerationSettings

HALVINGS = 4  # of the bounds of a nucleus; each reads all probabilities once


def draws(settings: GenerationSettings, count: int) -> Tensor:
    """One row's uniform numbers, fp32 [count]: the n-th decides the n-th new token and nothing else does.

    They are drawn ahead and on the CPU, so that a document depends neither on its neighbours nor on the device.
    """
    return torch.rand(count, generator=torch.Generator().manual_seed(settings.seed))


@dataclass(frozen=True)
class Choices:
    """How each row samples, by the modality that it is in; all [R], on the CPU, which decides what is computed.

    `top_k` 0: all ids.
    """

    temperature: Tensor
    top_p: Tensor
    top_k: Tensor
    min_p: Tensor

    @classmethod
    def of(cls, settings: list[GenerationSettings], images: list[bool]) -> Choices:
        """What each row's settings say; `images`: whether it is in a picture."""
        rows = list(zip(settings, images, strict=True))
        return cls(
            torch.tensor([one.temperature_of(image) for one, image in rows]),
            torch.tensor([one.top_p_of(image) for one, image in rows]),
            torch.tensor([one.top_k_of(image) for one, image in rows]),
            torch.tensor([one.min_p_of(image) for one, image in rows]),
        )


def sample(logits_RV: Tensor, choices: Choices, uniform_R: Tensor) -> Tensor:
    """One token a row, [R]. Ids with logit -inf are never taken; temperature 0 takes the most probable id.

    Sampling inverts the distribution function in the order of ids, not of probabilities: two ids that are almost
    equally probable may then swap ranks (another batch size rounds differently) without changing what is drawn.
    """
    if (choices.temperature == 0).all():
        return logits_RV.argmax(-1)
    temperature_R = choices.temperature.to(logits_RV.device)
    greedy_R = temperature_R == 0
    divisor_R1 = temperature_R.masked_fill(greedy_R, 1.0).unsqueeze(-1)
    logits_RV = logits_RV.float()
    probs_RV = ((logits_RV - logits_RV.amax(-1, keepdim=True)) / divisor_R1).softmax(-1)  # at most 0: cannot overflow
    if (choices.top_p < 1).any() or (choices.top_k > 0).any() or (choices.min_p > 0).any():
        probs_RV = _probable(probs_RV, choices)
    cumulative_RV = probs_RV.cumsum(-1)
    total_R = cumulative_RV.amax(-1)
    # Rounding may lift u * total to total, beyond every id: stay below it.
    target_R = torch.minimum(uniform_R * total_R, torch.nextafter(total_R, torch.zeros_like(total_R)))
    reached_RV = (cumulative_RV > target_R.unsqueeze(-1)) & (probs_RV > 0)
    drawn_R = reached_RV.to(torch.uint8).argmax(-1)  # the first id that reaches the target
    return torch.where(greedy_R, logits_RV.argmax(-1), drawn_R)


def _probable(probs_RV: Tensor, choices: Choices) -> Tensor:
    """Zero outside top-k, then the smallest set of what is left that has its share top_p, and min-p.

    Ids as probable as the last one that stays, stay too.
    """
    top_p, top_k, min_p = (one.to(probs_RV.device) for one in (choices.top_p, choices.top_k, choices.min_p))
    floor_R = min_p * probs_RV.amax(-1)
    if (choices.top_k > 0).any():
        largest_RN = probs_RV.topk(int(choices.top_k.clamp(1, probs_RV.shape[-1]).max())).values
        last_R1 = top_k.clamp(1, largest_RN.shape[-1]).unsqueeze(-1) - 1
        last_R = largest_RN.gather(-1, last_R1).squeeze(-1).masked_fill(top_k == 0, 0.0)
        floor_R = torch.maximum(floor_R, last_R)
        kept_RV = probs_RV.where(probs_RV >= last_R.unsqueeze(-1), 0.0)
    else:
        kept_RV = probs_RV
    if (choices.top_p < 1).any():
        floor_R = torch.maximum(floor_R, _nucleus(kept_RV, top_p))
    return torch.where(probs_RV >= floor_R.unsqueeze(-1), probs_RV, 0.0)


def _nucleus(probs_RV: Tensor, top_p_R: Tensor) -> Tensor:
    """The smallest probability in the nucleus, [R]; 0 where `top_p` is 1.

    Sorting a whole vocabulary would take a tenth of a step. What is less probable than ``(1 - top_p) / V`` has less
    than ``1 - top_p`` together and is none of the nucleus (half of that leaves room for rounding). The space between
    this bound and the most probable id is halved a few times, and what is left in it is sorted.
    """

    def above(bound_R: Tensor) -> Tensor:
        return probs_RV.where(probs_RV > bound_R.unsqueeze(-1), 0.0).sum(-1)

    total_R, high_R = probs_RV.sum(-1), probs_RV.amax(-1)
    target_R, is_whole_R = top_p_R * total_R, top_p_R >= 1
    low_R = ((1 - top_p_R) * total_R / (2 * probs_RV.shape[-1])).where(~is_whole_R, high_R)
    for _ in range(HALVINGS):
        middle_R = (low_R * high_R).sqrt()
        reached_R = above(middle_R) >= target_R
        low_R, high_R = middle_R.where(reached_R, low_R), high_R.where(reached_R, middle_R)
    between_RV = (probs_RV > low_R.unsqueeze(-1)) & (probs_RV <= high_R.unsqueeze(-1))
    most = max(1, int(between_RV.sum(-1).max()))
    sorted_RN = probs_RV.where(between_RV, 0.0).topk(most).values
    before_RN = above(high_R).unsqueeze(-1) + sorted_RN.cumsum(-1) - sorted_RN  # everything more probable
    size_R = (before_RN < target_R.unsqueeze(-1)).sum(-1).clamp(min=1)
    return sorted_RN.gather(-1, size_R.unsqueeze(-1) - 1).squeeze(-1).masked_fill(is_whole_R, 0.0)


def penalise(logits_V: Tensor, seen: Tensor, penalty: float) -> None:
    """Make ids that were `seen`, long [N], less probable, in place: "CTRL" (Keskar et al., 2019), section 4.1."""
    values = logits_V[seen]
    logits_V[seen] = torch.where(values > 0, values / penalty, values * penalty)
