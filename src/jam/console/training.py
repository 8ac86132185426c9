"""A training in a terminal: a bar with the remaining time, smoothed figures, and the checkpoints' place at a stop."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from typing import Any, Protocol

from jam.console import Console
from jam.console.progress import Smoothed, progress_bar


class Running(Protocol):
    """A trainer of a model or an image tokenizer."""

    config: Any
    step: int
    steps: int

    def train(self) -> Generator[Any]: ...


def run_training(trainer: Running, what: str, console: Console, on_step: Callable[[Any], None] | None = None) -> None:
    """Run a model's trainer to the end, with a bar and smoothed losses; `on_step` gets every `StepReport`."""
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
def steps_of(trainer: Running, console: Console) -> Iterator[Iterator[Any]]:
    """The steps of a training; when Ctrl-C or SIGTERM ends it, the console shows the checkpoints' place."""
    steps = trainer.train()
    try:
        with closing(steps):
            yield steps
    except (KeyboardInterrupt, SystemExit):
        saved = f"{trainer.config.out}/checkpoints"
        line = f"stopped after step {trainer.step}, saved in {saved}; the same command with --resume continues"
        console.print(line, soft_wrap=True, markup=False)
        raise
