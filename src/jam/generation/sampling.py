"""Temperature, top-k, top-p, min-p and the repetition penalty, for all rows at once. Shapes: R rows, V vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jam.generation.settings import GenerationSettings


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
    def of(cls, settings: list[GenerationSettings], images: list[bool], device: torch.device | str = "cpu") -> Choices:
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
    sorted_RV = probs_RV.sort(-1, descending=True).values
    last_R1 = top_k.clamp(1, probs_RV.shape[-1]).unsqueeze(-1) - 1
    floor_R = sorted_RV.gather(-1, last_R1).squeeze(-1).masked_fill(top_k == 0, 0.0)
    kept_RV = sorted_RV.where(sorted_RV >= floor_R.unsqueeze(-1), 0.0)
    before_RV = kept_RV.cumsum(-1) - kept_RV  # probability of everything more probable
    size_R = (before_RV < (top_p * kept_RV.sum(-1)).unsqueeze(-1)).sum(-1).clamp(min=1)
    nucleus_R = kept_RV.gather(-1, size_R.unsqueeze(-1) - 1).squeeze(-1)
    nucleus_R = nucleus_R.masked_fill(top_p >= 1, 0.0)  # exactly everything, whatever other rows ask for
    floor_R = torch.maximum(torch.maximum(floor_R, nucleus_R), min_p * sorted_RV[:, 0])
    return torch.where(probs_RV >= floor_R.unsqueeze(-1), probs_RV, 0.0)


def penalise(logits_V: Tensor, seen: Tensor, penalty: float) -> None:
    """Make ids that were `seen`, long [N], less probable, in place: "CTRL" (Keskar et al., 2019), section 4.1."""
    values = logits_V[seen]
    logits_V[seen] = torch.where(values > 0, values / penalty, values * penalty)
