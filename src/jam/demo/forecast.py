"""A forecast of a demo's time from its first training steps."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from jam.console import Console
from jam.training import StepReport

FIRST, LAST = 2, 4  # steps to time: step 1 also allocates memory
OPTIMISER = 900  # positions that take as long as the fixed part of a step
ANSWERS = 0.15  # time after the training, relative to the time of training


class Forecast:
    """A callback for the first training's steps that prints once how long the demo will take.

    Args:
        recipes: recipes of all trainings, in order.
        started: begin of the demo, by `time.perf_counter`.
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
