"""Progress of long work: a bar with the remaining time, and a line of figures."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Column

from jam.console import Console

T = TypeVar("T")
EVERY = 30.0  # seconds between lines without a terminal


class Lines(Progress):
    """A bar; without a terminal, as in a log, lines at intervals."""

    _last = -math.inf

    def update(self, task_id: TaskID, **changes: Any) -> None:
        super().update(task_id, **changes)
        self._log(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._log(task_id)

    def _log(self, task_id: TaskID) -> None:
        now = time.monotonic()
        if self.console.is_terminal or now - self._last < EVERY:
            return
        first, self._last = self._last == -math.inf, now
        if first:  # short work needs no line
            return
        task = next(task for task in self.tasks if task.id == task_id)
        left = "-:--:--" if task.time_remaining is None else timedelta(seconds=round(task.time_remaining))
        of = "" if task.total is None else f"/{task.total:.0f}"
        spent = timedelta(seconds=round(task.elapsed or 0))
        line = f"{task.description} {task.completed:.0f}{of} {spent} left {left} {task.fields['figures']}"
        self.console.print(line.rstrip(), soft_wrap=True, markup=False, highlight=False)


def progress_bar(console: Console, transient: bool = False) -> Progress:
    """A bar whose tasks need the field `figures`; without a terminal, lines at intervals.

    `transient`: the bar disappears at the end, since a summary follows.
    """
    # A narrow terminal cuts the figures, never the remaining time.
    return Lines(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None, table_column=Column(ratio=1)),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left", markup=False),
        TimeRemainingColumn(),
        TextColumn(
            "{task.fields[figures]}", markup=False, table_column=Column(ratio=3, no_wrap=True, overflow="ellipsis")
        ),
        console=console,
        transient=transient,
        disable=transient and not console.is_terminal,
        expand=True,
    )


@contextmanager
def bytes_bar(console: Console, what: str = "fusing") -> Iterator[Callable[[int, int], None]]:
    """A function of (newly done bytes, all bytes) that moves a bar; without a terminal there is no bar."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task(what, visible=False, start=False)

        def on_bytes(done: int, total: int) -> None:
            progress.start_task(task)
            progress.update(task, advance=done, total=total, visible=True)

        yield on_bytes


def track(items: Iterable[T], total: int | None, what: str, console: Console) -> Iterator[T]:
    """The items, with a bar that shows their number, the elapsed and the remaining time."""
    with progress_bar(console) as progress:
        task = progress.add_task(what, total=total, figures="")
        for item in items:
            yield item
            progress.advance(task)


class Smoothed:
    """Moving averages of figures, as a line of "name value"."""

    def __init__(self, rate: float = 0.1) -> None:
        self.rate = rate
        self.values: dict[str, float] = {}

    def __call__(self, now: Mapping[str, float | None], digits: int = 3) -> str:
        """The averages after the values `now`; None keeps an average, and a figure without any value is left out."""
        for name, value in now.items():
            if value is None:
                continue
            before = self.values.get(name, value)
            self.values[name] = (1 - self.rate) * before + self.rate * value
        return " ".join(f"{name} {self.values[name]:.{digits}f}" for name in now if name in self.values)
