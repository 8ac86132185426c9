"""The report of a training step."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class StepReport:
    """The report of a step over all processes.

    Args:
        loss: weighted mean in nats, with the z-loss; None if no target had a weight.
        text_loss: unweighted mean in nats of the text targets; None without text targets. `image_loss` likewise.
        text_accuracy: share of the text targets that had the greatest logit. `image_accuracy` likewise.
        grad_norm: norm of all gradients before clipping.
        grad_norms: norms of the gradients by part of the model.
        tokens: positions without padding.
        problem: reason why the step was skipped, or None.
    """

    step: int
    loss: float | None
    text_loss: float | None
    image_loss: float | None
    text_accuracy: float | None
    image_accuracy: float | None
    grad_norm: float
    grad_norms: dict[str, float]
    lr: float
    tokens: int
    seconds: float
    problem: str | None = None

    def record(self) -> dict[str, Any]:
        """The report as a flat mapping."""
        values = asdict(self)
        norms = values.pop("grad_norms")
        return values | {f"grad_norm_{part}": norm for part, norm in norms.items()}
