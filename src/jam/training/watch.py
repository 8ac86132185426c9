"""Detection of steps that must not move the weights: the loss or a gradient is no number, or the loss jumps."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

from jam.training.config import TrainConfig

RECENT, FEWEST, MOST_SKIPPED = 32, 8, 10
NAMED = 8  # documents in a message


class Watch:
    """Judges each step by its loss and gradient norm; a pure function of the earlier steps."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.recent: deque[float] = deque(maxlen=RECENT)
        self.skipped = 0

    def state(self) -> dict[str, list[float] | int]:
        return {"recent": list(self.recent), "skipped": self.skipped}

    def load_state(self, state: dict[str, Any]) -> None:
        self.recent, self.skipped = deque(state["recent"], RECENT), state["skipped"]

    def problem(self, loss: float | None, norm: float) -> str | None:
        """The problem of a step, or None."""
        if not (math.isfinite(loss or 0.0) and math.isfinite(norm)):
            return f"loss {loss} and gradient norm {norm}"
        if loss is not None and self.config.spike and len(self.recent) >= FEWEST:
            mean = sum(self.recent) / len(self.recent)
            if loss > self.config.spike * mean:
                return f"loss {loss:.4g} is more than {self.config.spike:g} times {mean:.4g}, the mean before it"
        return None

    def count(self, loss: float | None, problem: str | None) -> None:
        """Add a step to the earlier steps."""
        if problem:
            self.skipped += 1
        else:
            self.recent += [] if loss is None else [loss]
            self.skipped = 0

    def report(self, step: int, problem: str, documents: list[str]) -> str:
        """The message that a step is skipped.

        Raises:
            ValueError: the recipe says to stop, or too many steps in a row were skipped.
        """
        more = f" and {len(documents) - NAMED} more" if len(documents) > NAMED else ""
        what = f"after step {step}: {problem}; its batch: {', '.join(documents[:NAMED])}{more}"
        if self.config.on_bad_step == "stop":
            raise ValueError(f"{what}; lower lr, look at these documents, or choose on_bad_step skip")
        if self.skipped >= MOST_SKIPPED:
            raise ValueError(f"{what}; {MOST_SKIPPED} steps were skipped before it: lower lr, or resume earlier")
        return f"{what}; skipped"
