"""The trainer: `train_step`, and the loop, records, checkpoints and resume around it."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from jam.checked import require_kind
from jam.checkpoints import new_folder
from jam.checkpoints.folders import disk_full, is_disk_full
from jam.data import Batch, Loader, Objective, Shards, Source
from jam.data.check import BackgroundCheck
from jam.data.loader import START, Place
from jam.files import reading
from jam.models import JointModel
from jam.models.scoring import Scores, weighted_loss
from jam.training.checkpoint import (
    Checkpoints,
    Rule,
    checkpoints,
    kept,
    load_tensors,
    read_state,
    remedy,
    state_tensors,
)
from jam.training.config import TrainConfig
from jam.training.distributed import World, reshard, shard
from jam.training.forward import autocast, batch_hidden, is_image, select
from jam.training.interrupts import interrupts_wait, signals_noted
from jam.training.lanes import make_lanes
from jam.training.optimizers import clip, gradient_norms, make_optimizers
from jam.training.parts import choose_trained, frozen_digest, merged, named_parameters, prepare_layers, whole_tensors
from jam.training.recipe import FROZEN, compare, settings_of_run
from jam.training.records import VALIDATION, Records
from jam.training.report import StepReport
from jam.training.run_folder import RESULT, RunFolder
from jam.training.schedule import lr_factor
from jam.training.totals import Totals, tally
from jam.training.validation import validate
from jam.training.watch import Watch

SaveModel = Callable[[Path, str, dict[str, Tensor]], None]


class Trainer:
    """Trains `model` in place.

    Args:
        model: the model to train; several processes divide its parameters.
        config: the recipe.
        save_model: function of an empty folder, the stage and the tensors, which writes a whole model folder.
        fingerprint: `Codec.fingerprint` that all shards must have; None: do not compare.
        world: the processes of the run.

    Raises:
        ValueError: the recipe does not fit the model, its data or the number of processes.
    """

    def __init__(
        self,
        model: JointModel,
        config: TrainConfig,
        save_model: SaveModel,
        fingerprint: str | None = None,
        world: World | None = None,
    ) -> None:
        self.model, self.config, self.save_model, self.world = model, config, save_model, world or World()
        self.folder = RunFolder(config, self.world)
        self.run = self.folder.path
        self.context = config.context or model.context_length
        if self.context > model.context_length:
            raise ValueError(
                f"context is {self.context}, the model takes {model.context_length} positions; set a shorter --context"
            )
        c = config
        trained = [Shards(entry.path, model.vocabulary, fingerprint, learn_turns=c.learn_turns) for entry in c.sources]
        if c.learn_turns == "all" and not any(len(shards.turns) for shards in trained):
            raise ValueError(
                "learn_turns is all, and the shards of no source name an answer before the last; prepare conversations "
                "again if an earlier version did, or leave learn_turns out"
            )
        sources = [Source(shards, entry.weight, self.context) for shards, entry in zip(trained, c.sources, strict=True)]
        held = [Shards(path, model.vocabulary, fingerprint, c.validation_documents) for path in c.validation]
        self.validation = [Source(shards, 1.0, self.context) for shards in held]
        everything = (*sources, *self.validation)
        checks_data = self.world.rank % self.world.local_size == 0  # all processes of a node read the same files
        self.data_check = BackgroundCheck([source.shards for source in everything] if checks_data else [])
        self.left_out = [line for source in everything for line in source.named_left_out()]
        objective = Objective(c.cm3, c.unconditional_rate, c.sentinel_weight, c.image_weight, c.part_rate)
        self.loader = Loader(sources, model.grammar, self.context, config.micro_batch_size, objective, config.seed)
        self.accumulation = config.micro_batches(self.context, self.world.size)
        self.steps_per_epoch = self.loader.sequences_per_epoch() / (self.accumulation * config.micro_batch_size)
        self.steps = config.steps or math.ceil((config.epochs or 1.0) * self.steps_per_epoch)
        if config.schedule != "constant" and config.warmup_steps >= self.steps:
            raise ValueError(
                f"warmup_steps is {config.warmup_steps}, the run has {self.steps} steps: none is left for the "
                f"{config.schedule} schedule; lower warmup_steps, train longer or choose schedule constant"
            )
        choose_trained(model, config)
        prepare_layers(model, config)
        self.frozen = frozen_digest(model)  # checkpoints hold no frozen parameters
        if self.world.size > 1:
            shard(model, self.world, config.sharding, bf16=config.precision == "bf16")
        self.device = self.world.device or next(model.parameters()).device
        self.parameters = named_parameters(model)
        self.optimizers = make_optimizers(model, config)
        alone = self.world.size == 1 and not config.compile
        self.lanes = make_lanes(model, self.device, config.micro_batch_size) if alone else None
        self.watch = Watch(config)
        rule = Rule(config.keep_checkpoints, config.keep_epochs, config.keep_best)
        self.checkpoints = Checkpoints(self.run, rule, self.world)
        self.step = 0
        self.place = START  # place in the data after the last whole step
        self.batches = self._batches()
        self.validation_report: dict[str, float | int | None] = {}  # of the last step, if it was validated
        self.owes_validation = False  # True if the run ended during the validation of its last step
        self.signals: list[tuple[Any, ...]] = []  # signals that ask the run to end
        self.records = Records(None, 0)

    def train_step(self) -> StepReport:
        """One optimiser step over the global batch: `accumulation` micro-batches, divided among the processes."""
        started = time.perf_counter()
        batches, after = next(self.batches)
        (total,) = self.world.sum([sum(float(batch.weights.double().sum()) for batch in batches)])
        tallies = []
        for number, is_own in self.world.turns(self.accumulation):
            self._seed_dropout(number)
            found = self._backward(batches[number // self.world.size], is_own / total if total else 0.0)
            tallies += found if is_own else []
        totals = Totals(*self.world.sum(torch.stack(tallies).cpu().double().sum(0).tolist()))
        loss = totals.loss if total else None
        norms = gradient_norms(self.parameters)
        problem = self.watch.problem(loss, norms["all"])
        if problem:
            problem = self.watch.report(self.step, problem, self.loader.documents(self.place, self.accumulation))
        else:
            clip(self.parameters, norms["all"], self.config.max_grad_norm)
        lr = self._set_lr()
        with interrupts_wait():  # the state for checkpoints and the records change together
            for optimizer in self.optimizers:
                if not problem:
                    optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            self.watch.count(loss, problem)
            self.step += 1
            self.place = after
            self.validation_report = {}
            report = StepReport(
                step=self.step,
                loss=loss,
                **totals.means(),
                grad_norm=norms.pop("all"),
                grad_norms=norms,
                lr=lr,
                tokens=int(totals.tokens),
                seconds=time.perf_counter() - started,
                problem=problem,
            )
            self.records.write(report.record())
        return report

    def _backward(self, batch: Batch, share: float) -> list[Tensor]:
        """Add the gradients of a micro-batch, with its loss times `share`; returns a tally (`tally`) of each part."""
        if self.lanes is None:
            loss, tallied = self._share_of_loss(share, batch)
            loss.backward()
            return [tallied]
        parameters = list(self.parameters.values())

        def part(rows: Batch) -> tuple[tuple[Tensor | None, ...], Tensor]:
            loss, tallied = self._share_of_loss(share, rows)
            return torch.autograd.grad(loss, parameters, allow_unused=True), tallied

        found = self.lanes.map(part, batch.split(self.lanes.count))
        for index, parameter in enumerate(parameters):
            for gradient in (gradients[index] for gradients, _ in found):
                if gradient is not None:  # not written to, since parameters may share a gradient
                    parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                    parameter.grad += gradient
        return [tallied for _, tallied in found]

    def _share_of_loss(self, share: float, batch: Batch) -> tuple[Tensor, Tensor]:
        loss, scores, of_images = self._loss(batch.to(self.device))
        loss = loss * share
        return loss, tally(loss, scores, of_images, tokens=int((batch.documents >= 0).sum()))

    def _loss(self, batch: Batch) -> tuple[Tensor, Scores, Tensor]:
        """Sum of the weighted losses, scores of the targets [N], and bool [N]: which targets are image codes."""
        c = self.config
        with autocast(self.device, c.precision == "bf16" and self.world.size == 1):
            hidden, targets, states, weights = select(batch, batch_hidden(self.model, batch))
            loss, scores = weighted_loss(self.model, hidden, targets, states, weights, c.z_loss, c.max_logits)
        return loss, scores, is_image(targets, self.model)

    def _seed_dropout(self, number: int) -> None:
        """Make dropout a function of (seed, step, micro-batch), so that a run resumes exactly, on any processes."""
        seeds = np.random.SeedSequence([self.config.seed, 4, self.step, number])
        seed = int(seeds.generate_state(1, np.uint64)[0] >> 1)
        # torch.manual_seed formats a stack trace for every missing kind of device: 6 ms in a deep program.
        on_cpu = self.device.type == "cpu"
        (torch.default_generator.manual_seed if on_cpu else torch.manual_seed)(seed)

    def _set_lr(self) -> float:
        c = self.config
        lr = c.lr * lr_factor(self.step, self.steps, c.warmup_steps, c.schedule, c.min_lr_ratio)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr * group["factor"]
        return lr

    def validate(self) -> dict[str, float | int | None]:
        """Perplexity by modality over the validation documents."""
        return validate(self.model, self.validation, self.config, self.world, self.device, self._end_if_asked)

    def train(self) -> Generator[StepReport]:
        """Run to the end, and yield a report after every step; at the end ``out/model`` is the model.

        Ctrl-C, SIGTERM and closing the iterator save a checkpoint, from which ``resume`` continues. The last step has
        its checkpoint before the last validation begins. Any other error is raised when the pending checkpoint, if any,
        is written. With several processes, each waits alone, since the others may be at another place.

        Raises:
            SystemExit: after SIGTERM (with several processes also after Ctrl-C, at the end of the step).
            ValueError: the run has ended, has another recipe, or is trained by another process; or the check in the
                background finds that files of the data are not as they were written.
        """
        with self.folder.held():
            if (found := self.folder.last_checkpoint()) is not None:
                self._load(*found)
            self.folder.begin(self.left_out)
            yield from self._steps()
            reshard(self.model)
            tensors = merged(whole_tensors(self.model, keep=self.world.is_first), self.config)
            self.world.on_first(partial(self._save_result, tensors))

    def _steps(self) -> Generator[StepReport]:
        self.model.train()
        self.data_check.begin()
        validates = bool(self.validation) and (self.owes_validation or self.step == self.steps)
        self.records = Records(self.run if self.world.is_first else None, self.step, validates)
        noted = (signal.SIGTERM,) if self.world.size == 1 else (signal.SIGTERM, signal.SIGINT)
        with signals_noted(*noted) as self.signals:
            try:
                if self.owes_validation and self.validation:
                    self._validate()
                    self.checkpoints.add(self.step, self._validated())
                while self.step < self.steps:
                    yield self.train_step()
                    best = self._validate_if_due()
                    if best or self._is_due(self.config.checkpoint_every):
                        self.save_checkpoint()
                    self.checkpoints.settle()
                    self._end_if_asked()
                self.save_checkpoint(wait=True)
                if self.validation:
                    self._validate()
                    self.checkpoints.add(self.step, self._validated())
                self.data_check.wait()
                self._end_if_asked()
            except (KeyboardInterrupt, GeneratorExit, SystemExit):
                self.save_checkpoint(wait=True)
                raise
            except Exception as error:
                self.checkpoints.finish()
                if is_disk_full(error):
                    raise disk_full(self.run, None, kept(self.run)) from error
                raise
            finally:
                self.signals = []
                self.data_check.stop()
                self.records.close()

    def _end_if_asked(self) -> None:
        """Raises SystemExit, on all processes, if a process got a signal, and ValueError if data are damaged."""
        problem = self.data_check.problem
        ended, damaged = self.world.sum([float(len(self.signals)), float(problem is not None)])
        if damaged:
            raise problem or ValueError("another process found that files of the data are not as they were written")
        if ended:
            raise SystemExit(128 + signal.SIGTERM)

    def _save_result(self, tensors: dict[str, Tensor]) -> None:
        with new_folder(self.run / RESULT, kept=kept(self.run)) as folder:
            self.save_model(folder, self.config.stage, tensors)

    def _validate_if_due(self) -> bool:
        """Validate if the recipe says so; True if this validation is the best so far and the recipe keeps the best."""
        if not self.validation or not self._is_due(self.config.validate_every):
            return False
        self._validate()
        return self.config.keep_best and self.world.on_first(self._is_best)

    def _is_best(self) -> bool:
        best = [read_state(path).get("validation") for path in checkpoints(self.run)]
        now = self.validation_report["all_ppl"]
        return now is not None and all(value is None or now < value for value in best)

    def _validate(self) -> None:
        report = self.validate()
        with interrupts_wait():
            self.validation_report = report
            self.records.write({"step": self.step} | {f"{VALIDATION}{key}": value for key, value in report.items()})

    def _validated(self) -> dict[str, Any]:
        """The entries of a checkpoint's state about the validation at its step."""
        due = bool(self.validation) and self._is_due(self.config.validate_every)
        return {"validation": self.validation_report.get("all_ppl"), "owes": due and not self.validation_report}

    def _is_due(self, every: int | Literal["epoch"]) -> bool:
        if self.step == self.steps or not every:
            return False
        return self._ends_epoch() if every == "epoch" else self.step % every == 0

    def _ends_epoch(self) -> bool:
        return self.step // self.steps_per_epoch > (self.step - 1) // self.steps_per_epoch

    def save_checkpoint(self, wait: bool = False) -> None:
        """Begin to write ``checkpoints/step-NNNNNN``; earlier checkpoints stay until the new one is complete.

        Raises:
            ValueError: the disk is full.
        """
        state = {
            "step": self.step,
            "place": self.place,
            "watch": self.watch.state(),
            "settings": self._settings(),
            "ends_epoch": self._ends_epoch(),
            **self._validated(),
        }
        self.checkpoints.save(state_tensors(self.parameters, self.optimizers), state, wait)

    def load_checkpoint(self, checkpoint: Path) -> None:
        """Restore weights, moments, step and place in the data. Raises ValueError if the run has another recipe."""
        self._load(checkpoint, read_state(checkpoint))

    def _load(self, checkpoint: Path, state: dict[str, Any]) -> None:
        compare(checkpoint, state["settings"], self._settings())
        load_tensors(checkpoint, self.parameters, self.optimizers, self.world)
        with reading(checkpoint, remedy(checkpoint)):
            self.watch.load_state(state["watch"])
            self.step = state["step"]
            require_kind(Place, state.get("place"), "place")
            self.place = state["place"]
        self.owes_validation = state.get("owes", False)
        self.batches = self._batches()

    def _batches(self) -> Iterator[tuple[list[Batch], Place]]:
        """This process's batches of every step from `place` on, each with the place after the step."""
        return self.loader.steps(self.place, self.accumulation, self.world.rank, self.world.size)

    def _settings(self) -> dict[str, Any]:
        sources = self.loader.sources
        data: dict[str, Any] = {
            "context": self.context,
            "pieces": [len(source) for source in sources],
            "tokens": [int(source.shards.lengths().sum()) for source in sources],
            "digests of data": [source.shards.digest for source in sources],
            "weights": [source.weight for source in sources],
            FROZEN: self.frozen,
        }
        return settings_of_run(self.config, data)
