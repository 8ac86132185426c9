"""Sums over the micro-batches of a step and over processes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jam.models.scoring import Scores


def tally(loss: Tensor, scores: Scores, is_image: Tensor, tokens: int) -> Tensor:
    """The fields of `Totals` for one micro-batch, fp32 ``[8]``; does not wait for the device.

    Args:
        loss: the micro-batch's part of the weighted mean.
        is_image: bool ``[N]``: which targets are image codes.
        tokens: positions that are no padding.
    """
    sums = [loss.detach(), loss.new_tensor(tokens)]
    for selected in (~is_image, is_image):
        nats = torch.where(selected, scores.nll, 0.0).sum()
        sums += [nats, (scores.is_right & selected).sum(), selected.sum()]
    return torch.stack([value.float() for value in sums])


@dataclass
class Totals:
    """Sums of a step: `loss` is the weighted mean, the counts of targets are by modality, `tokens` counts positions."""

    loss: float
    tokens: float
    text_nats: float
    text_right: float
    text_targets: float
    image_nats: float
    image_right: float
    image_targets: float

    def means(self) -> dict[str, float | None]:
        """Loss and accuracy by modality; None for a modality without targets."""
        text, image = self.text_targets, self.image_targets
        return {
            "text_loss": self.text_nats / text if text else None,
            "image_loss": self.image_nats / image if image else None,
            "text_accuracy": self.text_right / text if text else None,
            "image_accuracy": self.image_right / image if image else None,
        }
