"""Progress of long work: a bar with what remains, and a line of figures."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from jam.console import Console

if TYPE_CHECKING:
    from jam.tokenizer_training import TokenizerTrainer
    from jam.training import StepReport, Trainer

T = TypeVar("T")
EVERY = 30.0  # seconds between two lines where there is no terminal


class Lines(Progress):
    """A bar; in a log, where there is no terminal, a line now and then."""

    _last = -math.inf

    def update(self, task_id: TaskID, **changes: Any) -> None:  # type: ignore[override]
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
        if first:  # the bar, or what follows, tells of work that is done soon
            return
        task = next(task for task in self.tasks if task.id == task_id)
        left = "-:--:--" if task.time_remaining is None else timedelta(seconds=round(task.time_remaining))
        of = "" if task.total is None else f"/{task.total:.0f}"
        spent = timedelta(seconds=round(task.elapsed or 0))
        line = f"{task.description} {task.completed:.0f}{of} {spent} left {left} {task.fields['figures']}"
        self.console.print(line.rstrip(), soft_wrap=True, markup=False, highlight=False)


def progress_bar(console: Console, transient: bool = False) -> Progress:
    """A bar whose tasks need the field `figures`; a line now and then where there is no terminal.

    `transient`: it leaves no bar behind, since a summary follows.
    """
    # In a narrow terminal the figures are cut, never the time that remains.
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


def track(items: Iterable[T], total: int | None, what: str, console: Console) -> Iterator[T]:
    """Pass items on and show how many came, how long it took and how long it will take."""
    with progress_bar(console) as progress:
        task = progress.add_task(what, total=total, figures="")
        for item in items:
            yield item
            progress.advance(task)


def run_training(
    trainer: Trainer, what: str, console: Console, on_step: Callable[[StepReport], None] | None = None
) -> None:
    """Run a trainer to its end with a progress bar and smoothed losses; `on_step` is called behind every step."""
    smooth = Smoothed()
    with steps_of(trainer, console) as steps, progress_bar(console) as progress:
        task = progress.add_task(what, total=trainer.steps, figures="")
        for report in steps:
            losses = smooth({"loss": report.loss, "text": report.text_loss, "image": report.image_loss})
            rate = smooth({"tokens/s": report.tokens / report.seconds}, digits=0)
            progress.update(task, completed=report.step, figures=f"{losses} {rate}")
            if report.problem:
                progress.console.print(report.problem, soft_wrap=True, markup=False)
            if on_step is not None:
                on_step(report)


@contextmanager
def steps_of(trainer: Trainer | TokenizerTrainer, console: Console) -> Iterator[Iterator[Any]]:
    """The steps of a training, which says where it is saved when Ctrl-C or SIGTERM ends it."""
    steps = trainer.train()
    try:
        with closing(steps):
            yield steps
    except (KeyboardInterrupt, SystemExit):
        saved = f"{trainer.config.out}/checkpoints"
        line = f"stopped behind step {trainer.step}, saved in {saved}; the same command with --resume goes on"
        console.print(line, soft_wrap=True, markup=False)
        raise


class Smoothed:
    """Moving averages of figures, as a line of "name value"."""

    def __init__(self, rate: float = 0.1) -> None:
        self.rate = rate
        self.values: dict[str, float] = {}

    def __call__(self, now: Mapping[str, float | None], digits: int = 3) -> str:
        """What has no value now keeps its average; what never had one is left out."""
        for name, value in now.items():
            if value is None:
                continue
            before = self.values.get(name, value)
            self.values[name] = (1 - self.rate) * before + self.rate * value
        return " ".join(f"{name} {self.values[name]:.{digits}f}" for name in now if name in self.values)
