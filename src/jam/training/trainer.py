"""The trainer: one readable `train_step`, and around it the loop, records, checkpoints and resume."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from jam.checkpoints import new_folder, write_json
from jam.checkpoints.folders import refuse_existing
from jam.data import Batch, Loader, Objective, Shards, Source, plain_batches, split
from jam.models import JointModel
from jam.models.scoring import Perplexity, token_nll
from jam.training.checkpoint import checkpoints, load_optimizers, read_state, save_checkpoint
from jam.training.config import TrainConfig
from jam.training.interrupts import interrupts_wait
from jam.training.optimizers import make_optimizers
from jam.training.schedule import lr_factor

RESULT = "model"
RECORDS = "metrics.jsonl"


@dataclass(frozen=True)
class StepReport:
    """What one step did. `loss`: weighted mean in nats; `tokens`: positions that are no padding."""

    step: int
    loss: float
    text_loss: float
    image_loss: float
    grad_norm: float
    lr: float
    tokens: int
    seconds: float


def select(batch: Batch, hidden: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Hidden states, targets, states and weights of the positions that count, flattened to [N, ...]."""
    at = (batch.weights.flatten() > 0).nonzero()[:, 0]
    flat = [tensor.flatten()[at] for tensor in (batch.targets, batch.states, batch.weights)]
    return (hidden.flatten(0, 1).index_select(0, at), *flat)


def batch_hidden(model: JointModel, batch: Batch) -> torch.Tensor:
    return model.hidden(batch.inputs, batch.positions, batch.packed)


class Trainer:
    """Trains `model` in place.

    Args:
        model: a joint model that is a `torch.nn.Module` too.
        config: the recipe.
        save_model: writes a whole model folder; called with an empty folder and the stage reached.
        load_weights: takes the weights of a folder that `save_model` wrote.
        fingerprint: `Codec.fingerprint` that all shards must have; None: don't compare.
    """

    def __init__(
        self,
        model: Any,
        config: TrainConfig,
        save_model: Callable[[Path, str], None],
        load_weights: Callable[[Path], None],
        fingerprint: str | None = None,
    ) -> None:
        self.model, self.config = model, config
        self.save_model, self.load_weights = save_model, load_weights
        self.run = Path(config.out)
        self.device = next(model.parameters()).device
        self.context = config.context or model.context_length
        if self.context > model.context_length:
            raise ValueError(f"context is {self.context}, the model takes {model.context_length} positions")
        sources = [
            Source(Shards(source.path, model.vocabulary, fingerprint), source.weight, self.context)
            for source in config.sources
        ]
        c = config
        objective = Objective(c.cm3, c.unconditional_rate, c.sentinel_weight, c.image_weight, c.part_rate)
        self.loader = Loader(sources, model.grammar, self.context, config.micro_batch_size, objective, config.seed)
        self.accumulation = max(1, round(config.batch_tokens / (config.micro_batch_size * self.context)))
        self.steps_per_epoch = self.loader.sequences_per_epoch() / (self.accumulation * config.micro_batch_size)
        self.steps = config.steps or math.ceil((config.epochs or 1.0) * self.steps_per_epoch)
        if config.schedule != "constant" and config.warmup_steps >= self.steps:
            raise ValueError(
                f"warmup_steps is {config.warmup_steps}, the run has {self.steps} steps: none is left for the "
                f"{config.schedule} schedule; lower warmup_steps, train longer or choose schedule constant"
            )
        self.names: dict[torch.Tensor, str] = {
            parameter: name for name, parameter in model.named_parameters() if parameter.requires_grad
        }
        self.optimizers = make_optimizers(model, config)
        self.step = 0
        self.place = self.loader.state()  # in the data, after the last whole step
        self.validation_report: dict[str, float | int | None] = {}
        self.validation = [Shards(path, model.vocabulary, fingerprint) for path in config.validation]

    def train_step(self) -> StepReport:
        """One optimiser step over `accumulation` micro-batches, each weighted by its share of what counts."""
        started = time.perf_counter()
        self._seed_dropout()
        batches = [next(self.loader) for _ in range(self.accumulation)]
        total = sum(float(batch.weights.sum()) for batch in batches)
        lr = self._set_lr()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        counts = Perplexity()
        loss_sum = 0.0
        for batch in batches:
            batch = batch.to(self.device)
            with self._autocast():
                hidden, targets, states, weights = select(batch, batch_hidden(self.model, batch))
                nll = token_nll(self.model, hidden, targets, states)
            loss = (nll * weights).sum() / total
            loss.backward()
            loss_sum += loss.item()
            counts.add(nll.detach(), self._is_image(targets))
        norm = float(torch.nn.utils.clip_grad_norm_(self.names, self.config.max_grad_norm))
        if not math.isfinite(loss_sum) or not math.isfinite(norm):
            raise ValueError(
                f"after step {self.step}: loss {loss_sum} and gradient norm {norm}; lower lr, or resume earlier"
            )
        with interrupts_wait():  # what a checkpoint holds changes together
            for optimizer in self.optimizers:
                optimizer.step()
            self.step += 1
            self.place = self.loader.state()
        return StepReport(
            step=self.step,
            loss=loss_sum,
            text_loss=counts.text_nats / max(1, counts.text_tokens),
            image_loss=counts.image_nats / max(1, counts.image_tokens),
            grad_norm=norm,
            lr=lr,
            tokens=sum(int((batch.documents >= 0).sum()) for batch in batches),
            seconds=time.perf_counter() - started,
        )

    def _seed_dropout(self) -> None:
        """Make the dropout of parents that have it a function of (seed, step), so that a run resumes exactly."""
        seeds = np.random.SeedSequence([self.config.seed, 4, self.step])
        torch.manual_seed(int(seeds.generate_state(1, np.uint64)[0] >> 1))

    def _set_lr(self) -> float:
        c = self.config
        lr = c.lr * lr_factor(self.step, self.steps, c.warmup_steps, c.schedule, c.min_lr_ratio)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
        return lr

    def _autocast(self) -> Any:
        if self.config.precision == "bf16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

    def _is_image(self, targets: torch.Tensor) -> torch.Tensor:
        v = self.model.vocabulary
        return (targets >= v.image_start) & (targets < v.control_start)

    @torch.no_grad()
    def validate(self) -> dict[str, float | int | None]:
        """Perplexity by modality over the validation documents, unmasked and without dropout."""
        counts = Perplexity()
        was_training = self.model.training
        self.model.eval()
        for shards in self.validation:
            pieces = [
                piece
                for document in range(min(len(shards), self.config.validation_documents))
                for piece in split(shards[document], self.context + 1, shards.vocabulary)
            ]
            for batch in plain_batches(pieces, self.model.grammar, self.context, self.config.micro_batch_size):
                batch = batch.to(self.device)
                with self._autocast():
                    hidden, targets, states, _ = select(batch, batch_hidden(self.model, batch))
                    counts.add(token_nll(self.model, hidden, targets, states), self._is_image(targets))
        self.model.train(was_training)
        return counts.report()

    def train(self) -> Iterator[StepReport]:
        """Run to the end, yielding after every step; afterwards the model lies in ``out/model``.

        An interrupt (or closing the iterator) saves a checkpoint first; ``resume`` goes on from it.
        """
        self._begin()
        self.model.train()
        with (
            SummaryWriter(self.run / "tensorboard", purge_step=self.step + 1) as board,
            (self.run / RECORDS).open("a") as records,
        ):
            try:
                while self.step < self.steps:
                    report = self.train_step()
                    self._record(asdict(report), board, records)
                    yield report
                    if self._is_due(self.config.checkpoint_every):
                        self.save_checkpoint()
                    if self.validation and self._is_due(self.config.validate_every):
                        self._record(self._validation_record(), board, records)
                self.save_checkpoint()
                if self.validation:
                    self._record(self._validation_record(), board, records)
            except (KeyboardInterrupt, GeneratorExit):
                self.save_checkpoint()
                raise
        with new_folder(self.run / RESULT) as folder:
            self.save_model(folder, self.config.stage)

    def _validation_record(self) -> dict[str, Any]:
        self.validation_report = self.validate()
        return {"step": self.step} | {f"validation_{key}": value for key, value in self.validation_report.items()}

    def _is_due(self, every: int | Literal["epoch"]) -> bool:
        if self.step == self.steps or not every:
            return False
        if every == "epoch":
            return self.step // self.steps_per_epoch > (self.step - 1) // self.steps_per_epoch
        return self.step % every == 0

    def _begin(self) -> None:
        found = checkpoints(self.run)
        if (self.run / RESULT).exists():
            raise ValueError(f"{self.run} holds a finished run; choose another --out or remove it")
        if found and not self.config.resume:
            raise ValueError(f"{self.run} holds a run at {found[-1].name}; pass --resume, or choose another --out")
        if not self.config.resume:
            refuse_existing(self.run)
        self.run.mkdir(parents=True, exist_ok=True)
        if found:
            self.load_checkpoint(found[-1])
        self._forget_later_records()
        write_json(self.run / "recipe.json", asdict(self.config))

    def _forget_later_records(self) -> None:
        """Drop the records of steps behind the checkpoint; they come again."""
        path = self.run / RECORDS
        if path.exists():
            lines = path.read_text().splitlines(keepends=True)
            path.write_text("".join(line for line in lines if json.loads(line)["step"] <= self.step))

    def save_checkpoint(self) -> Path:
        """Write ``checkpoints/step-NNNNNN``; earlier ones stay until it is whole.

        Raises:
            ValueError: the disk is full.
        """
        return save_checkpoint(
            self.run,
            self.step,
            lambda folder: self.save_model(folder, self.config.stage),
            self.optimizers,
            self.names,
            {"place": self.place, "data": self._data_settings(), "config": asdict(self.config)},
            self.config.keep_checkpoints,
        )

    def load_checkpoint(self, checkpoint: Path) -> None:
        """Weights, moments, step and place in the data. Raises ValueError if the data are not those of the run."""
        state = read_state(checkpoint)
        for name, now in self._data_settings().items():
            if (before := state["data"][name]) != now:
                raise ValueError(f"{checkpoint}: {name} was {before} and is {now}; resume a run with the data it had")
        before, now = state["config"].get("optimizer", "adamw"), self.config.optimizer
        if before != now:
            raise ValueError(f"{checkpoint}: optimizer was {before} and is {now}; resume a run with the one it had")
        self.load_weights(checkpoint)
        load_optimizers(checkpoint, self.optimizers, self.names)
        self.step, self.place = state["step"], state["place"]
        self.loader.load_state(self.place)

    def _data_settings(self) -> dict[str, Any]:
        """What the place in the data depends on."""
        c = self.config
        return {
            "context": self.context,
            "seed": c.seed,
            "cm3": c.cm3,
            "unconditional_rate": c.unconditional_rate,
            "part_rate": c.part_rate,
            "pieces": [len(source) for source in self.loader.sources],
            "weights": [source.weight for source in self.loader.sources],
        }

    @staticmethod
    def _record(values: dict[str, Any], board: SummaryWriter, records: Any) -> None:
        records.write(json.dumps(values) + "\n")
        records.flush()
        for key, value in values.items():
            if key != "step" and value is not None:
                board.add_scalar(key, value, values["step"])
