"""The demo says at its start how long it will take."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from jam.demo import forecast
from jam.demo.forecast import Forecast
from jam.training import StepReport


def report(step: int, seconds: float) -> StepReport:
    return StepReport(step, 1.0, 1.0, None, 0.5, None, 1.0, {}, 1e-3, 100, seconds)


def test_it_follows_from_the_steps_behind_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "ANSWERS", 0.5)
    monkeypatch.setattr(forecast, "OPTIMISER", 100)
    written = io.StringIO()
    recipes = [{"steps": 10, "batch_tokens": 200}, {"steps": 40, "batch_tokens": 100}]
    tell = Forecast(recipes, time.perf_counter() - 120, Console(file=written, width=200))
    for step, seconds in enumerate([500.0, 10.0, 12.0, 14.0, 900.0, 12.0], start=1):
        tell(report(step, seconds))
        assert bool(written.getvalue()) == (step >= 4)
    # 12 s for 200 positions and the optimiser, 8 s for 100: 6 and 40 steps are left, and half of all 10 and 40.
    assert (120 + 6 * 12 + 40 * 8 + (10 * 12 + 40 * 8) / 2) / 60 == 12.2
    assert written.getvalue().strip() == "a step takes 12.0 s here, so the demo takes about 12 minutes in all"


def test_a_training_of_fewer_steps_says_nothing() -> None:
    written = io.StringIO()
    tell = Forecast([{"steps": 3, "batch_tokens": 8}], time.perf_counter(), Console(file=written))
    for step in (1, 2, 3):
        tell(report(step, 1.0))
    assert not written.getvalue()
