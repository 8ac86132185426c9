"""How long a demo will take, by its first training steps."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from jam.training import StepReport

FIRST, LAST = 2, 4  # steps that are timed: the very first one also makes room in memory
ANSWERS = 0.1  # what comes behind the training, by the training's time


class Forecast:
    """Called with every step of the first training; says once how long everything will take.

    Args:
        recipes: of all trainings, in order.
        started: when the demo began, by `time.perf_counter`.
    """

    def __init__(self, recipes: Sequence[Mapping[str, Any]], started: float, console: Console) -> None:
        self.positions = sum(recipe["steps"] * recipe["batch_tokens"] for recipe in recipes)
        self.a_step = recipes[0]["batch_tokens"]
        self.started, self.console = started, console
        self.seconds: list[float] = []

    def __call__(self, report: StepReport) -> None:
        if FIRST <= report.step <= LAST:
            self.seconds.append(report.seconds)
        if report.step == LAST:
            seconds = sum(self.seconds) / len(self.seconds)
            a_position = seconds / self.a_step
            left = (self.positions - LAST * self.a_step) * a_position + self.positions * a_position * ANSWERS
            minutes = (time.perf_counter() - self.started + left) / 60
            self.console.print(
                f"a step takes {seconds:.1f} s here, so the demo takes about {max(1, round(minutes))} minutes in all"
            )
