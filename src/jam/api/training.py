"""Training from Python: a trainer of a model folder, and a whole run."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from jam.api.loading import load
from jam.api.model import Model
from jam.tokenizer_training import TOKENIZER, TokenizerConfig, TokenizerStep, TokenizerTrainer
from jam.training import RESULT, StepReport, TrainConfig, Trainer
from jam.training.distributed import World, join, leave

T = TypeVar("T")


def make_trainer(model: Model, config: TrainConfig, world: World | None = None) -> Trainer:
    """A trainer of a loaded model; `Trainer.train` yields a report of every step.

    Args:
        world: the processes that train together; None: only this process.

    Raises:
        ValueError: shards are of other tokenizers, or the model cannot be saved.
    """
    model.image_tokenizer_folder()  # fails before training, not after: every checkpoint takes a copy
    return Trainer(model.joint, config, model.save, model.codec.fingerprint, world)


def open_trainer(config: TrainConfig, world: World) -> tuple[Model, Trainer]:
    """The model of a recipe, and its trainer. Raises ValueError as `load` and `make_trainer` do."""
    # Several processes load into host memory; each process then moves its part to its device.
    model = load(config.model, config.device if world.size == 1 else "cpu", config.dtype, check=True)
    return model, make_trainer(model, config, world)


def run(steps: Generator[T], on_step: Callable[[T], None] | None) -> None:
    """Run all steps; if a step or `on_step` raises, the trainer saves a checkpoint before the caller gets the error."""
    with closing(steps):
        for report in steps:
            if on_step is not None:
                on_step(report)


def train(config: TrainConfig, on_step: Callable[[StepReport], None] | None = None) -> Path:
    """Train by a recipe, as `jam train` does, and return the folder of the trained model, ``config.out/model``.

    Under `torchrun` the processes train together. An exception or Ctrl-C saves a checkpoint, from which a run with
    ``resume=True`` in the recipe continues.

    Args:
        on_step: is called with the report of every step.

    Raises:
        ValueError: the recipe does not fit the model or the shards, or ``config.out`` exists.

    >>> config = jam.TrainConfig(  # doctest: +SKIP
    ...     model="fused", out="runs/align", sources=[jam.DataSource("shards")], steps=1000, batch_tokens=65_536
    ... )
    >>> model = jam.load(jam.train(config))  # doctest: +SKIP
    """
    world = join(config.device)
    try:
        _, trainer = open_trainer(config, world)
        try:
            run(trainer.train(), on_step)
        finally:
            trainer.checkpoints.finish()
    finally:
        leave()
    return Path(config.out) / RESULT


def train_tokenizer(config: TokenizerConfig, on_step: Callable[[TokenizerStep], None] | None = None) -> Path:
    """Train an image tokenizer by a recipe, as `jam train-tokenizer` does, and return its folder.

    An exception or Ctrl-C saves a checkpoint, from which a run with ``resume=True`` in the recipe continues.

    Args:
        on_step: is called with the report of every step.

    Raises:
        ValueError: the recipe does not fit together, there are no pictures, or ``config.out`` exists.
    """
    run(TokenizerTrainer(config).train(), on_step)
    return Path(config.out) / TOKENIZER
