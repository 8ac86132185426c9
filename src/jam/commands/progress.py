"""Progress of long work: a bar with what remains, and a line of figures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

from jam.training import Trainer

T = TypeVar("T")


def progress_bar(console: Console, transient: bool = False) -> Progress:
    """A bar whose tasks need the field `figures`. `transient`: it leaves no line behind, since a summary follows."""
    # In a narrow terminal the figures are cut, never the time that remains.
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None, table_column=Column(ratio=1)),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}", table_column=Column(ratio=3, no_wrap=True, overflow="ellipsis")),
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


def run_training(trainer: Trainer, what: str, console: Console) -> None:
    """Run a trainer to its end with a progress bar and smoothed losses."""
    smooth = Smoothed()
    with progress_bar(console) as progress:
        task = progress.add_task(what, total=trainer.steps, figures="")
        for report in trainer.train():
            losses = smooth({"loss": report.loss, "text": report.text_loss, "image": report.image_loss})
            rate = smooth({"tokens/s": report.tokens / report.seconds}, digits=0)
            progress.update(task, completed=report.step, figures=f"{losses} {rate}")
            if report.problem:
                progress.console.print(report.problem, soft_wrap=True, markup=False)


class Smoothed:
    """Moving averages of figures, as a line of "name value"."""

    def __init__(self, rate: float = 0.1) -> None:
        self.rate = rate
        self.values: dict[str, float] = {}

    def __call__(self, now: dict[str, float], digits: int = 3) -> str:
        for name, value in now.items():
            before = self.values.get(name, value)
            self.values[name] = (1 - self.rate) * before + self.rate * value
        return " ".join(f"{name} {self.values[name]:.{digits}f}" for name in now)
