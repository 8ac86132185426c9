"""Sums over the micro-batches of a step, and over processes."""

from __future__ import annotations

from dataclasses import astuple, dataclass

from torch import Tensor

from jam.models.scoring import Scores


@dataclass
class Totals:
    """`loss` is the weighted mean already; counts of targets are by modality, `tokens` of all positions."""

    loss: float = 0.0
    tokens: float = 0.0
    text_nats: float = 0.0
    text_right: float = 0.0
    text_targets: float = 0.0
    image_nats: float = 0.0
    image_right: float = 0.0
    image_targets: float = 0.0

    def add(self, loss: float, scores: Scores, is_image: Tensor, tokens: int) -> None:
        """Count a micro-batch; `is_image`, bool ``[N]``, says which targets are image codes."""
        self.loss += loss
        self.tokens += tokens
        self.image_nats += float(scores.nll[is_image].double().sum())
        self.text_nats += float(scores.nll[~is_image].double().sum())
        self.image_right += int(scores.is_right[is_image].sum())
        self.text_right += int(scores.is_right[~is_image].sum())
        self.image_targets += int(is_image.sum())
        self.text_targets += int((~is_image).sum())

    def values(self) -> list[float]:
        return list(astuple(self))

    def means(self) -> dict[str, float]:
        """Loss and accuracy by modality; 0 where it has no targets."""
        text, image = max(1.0, self.text_targets), max(1.0, self.image_targets)
        return {
            "text_loss": self.text_nats / text,
            "image_loss": self.image_nats / image,
            "text_accuracy": self.text_right / text,
            "image_accuracy": self.image_right / image,
        }
