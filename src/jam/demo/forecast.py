"""How long a demo will take, by its first training steps."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from jam.console import Console
from jam.training import StepReport

FIRST, LAST = 2, 4  # steps that are timed: the very first one also makes room in memory
OPTIMISER = 900  # positions that take as long as what a step does whatever its size
ANSWERS = 0.15  # what comes behind the training, by the training's time


class Forecast:
    """Called with every step of the first training; says once how long everything will take.

    Args:
        recipes: of all trainings, in order.
        started: when the demo began, by `time.perf_counter`.
    """

    def __init__(self, recipes: Sequence[Mapping[str, Any]], started: float, console: Console) -> None:
        self.work = sum(recipe["steps"] * (recipe["batch_tokens"] + OPTIMISER) for recipe in recipes)
        self.of_step = recipes[0]["batch_tokens"] + OPTIMISER
        self.started, self.console = started, console
        self.seconds: list[float] = []

    def __call__(self, report: StepReport) -> None:
        if FIRST <= report.step <= LAST:
            self.seconds.append(report.seconds)
        if report.step == LAST:
            seconds = sum(self.seconds) / len(self.seconds)
            left = seconds / self.of_step * ((1 + ANSWERS) * self.work - LAST * self.of_step)
            minutes = (time.perf_counter() - self.started + left) / 60
            self.console.print(
                f"a step takes {seconds:.1f} s here, so the demo takes about {max(1, round(minutes))} minutes in all"
            )
