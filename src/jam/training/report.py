"""What a training step did."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class StepReport:
    """What one step did, in all processes together.

    Args:
        loss: weighted mean in nats, with the z-loss; None: no target had a weight.
        text_loss: mean in nats of the text targets, unweighted; None: there were none. So for images.
        text_accuracy: share of them that had the greatest logit.
        grad_norm: of all gradients, before they were clipped.
        grad_norms: by part of the model.
        tokens: positions that are no padding.
        problem: why the step was skipped; None: it was not.
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
        """As a flat mapping."""
        values = asdict(self)
        norms = values.pop("grad_norms")
        return values | {f"grad_norm_{part}": norm for part, norm in norms.items()}
