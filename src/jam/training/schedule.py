"""Learning rates by step."""

from __future__ import annotations

import math
from typing import Literal


def lr_factor(
    step: int, steps: int, warmup_steps: int, schedule: Literal["cosine", "linear", "constant"], min_lr_ratio: float
) -> float:
    """Factor on the peak learning rate at `step` (0 .. steps - 1): linear warm-up, then decay to `min_lr_ratio`."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    progress = (step - warmup_steps + 1) / max(1, steps - warmup_steps)
    left = 0.5 * (1 + math.cos(math.pi * progress)) if schedule == "cosine" else 1 - progress
    return min_lr_ratio + (1 - min_lr_ratio) * left
