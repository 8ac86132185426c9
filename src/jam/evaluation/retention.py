"""What a fused model kept of its parents: the same logits, before any training, on each parent's own modality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jam.grammar import State
from jam.models import JointModel, SingleStream


@dataclass(frozen=True)
class Retention:
    """Greatest differences over all positions, and the mean probability that new control rows take in text.

    Only the parents' own rows are compared: a parent has no logit for a control token it never had.
    """

    text_difference: float
    image_difference: float
    new_control_probability: float

    @property
    def max_logit_difference(self) -> float:
        return max(self.text_difference, self.image_difference)


@torch.inference_mode()
def compare_with_parents(
    fused: JointModel,
    text_parent: SingleStream,
    image_parent: SingleStream,
    texts: Sequence[list[int]],
    pictures: Sequence[list[int]],
) -> Retention:
    """Run parents and fused model on joint ids of `texts` (text only) and `pictures` (captioned pictures).

    One document a forward, plain causal attention: the very computation of the parents.
    """
    text_difference = image_difference = 0.0
    control: list[Tensor] = []
    v = fused.vocabulary
    is_text = fused.grammar.allowed()[State.TEXT].to(fused.device)
    kept = is_text[: text_parent.joint.rows.text_size].nonzero().flatten()
    for ids in texts:
        logits, _ = _logits(fused, ids)
        own, _ = _logits(text_parent, ids)
        text_difference = max(text_difference, _greatest_difference(logits[:, kept], own[:, kept]))
        control.append(logits.softmax(-1)[:, v.control_start :].sum(-1))
    for ids in pictures:
        logits, states = _logits(fused, ids)
        own, _ = _logits(image_parent, ids)
        at_image = states == State.IMAGE
        codes = slice(v.image_start, v.control_start)
        image_difference = max(
            image_difference, _greatest_difference(logits[at_image][:, codes], own[at_image][:, codes])
        )
    mean = torch.cat(control).mean().item() if control else 0.0
    return Retention(text_difference, image_difference, mean)


def _logits(model: JointModel, ids: list[int]) -> tuple[Tensor, Tensor]:
    """Logits ``[T, V]`` of all targets of one document, and their states ``[T]``."""
    states = torch.tensor(model.grammar.states(ids)[1:], device=model.device)
    inputs = torch.tensor(ids[:-1], device=model.device)[None]
    return model.logits(model.hidden(inputs)[0], states), states


def _greatest_difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max()) if a.numel() else 0.0
