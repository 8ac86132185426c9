"""Settings of a training run; a recipe is a YAML file of these settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from jam.checked import check_fields


@dataclass
class DataSource:
    """A source of the mixture.

    Args:
        path: folder of token shards (`jam prepare`).
        weight: share of the training tokens, relative to the other sources.
    """

    path: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.weight <= 0:
            raise ValueError(f"the weight of the source {self.path} is {self.weight}; it must be positive")


@dataclass
class TrainConfig:
    """Settings of `jam train`.

    Args:
        model: folder of the model to start from.
        out: folder of the run, for checkpoints, records and finally `model/`.
        sources: training data, as SHARDS[:WEIGHT] ..., folders of `jam prepare` with their shares of the tokens;
            in a recipe a list, [{path: SHARDS, weight: 1}].
        validation: folders of token shards whose perplexity is measured, by modality.
        stage: name of the result's stage in its manifest.
        train: "all"; "cross" for cross blocks, readout and new rows, with frozen towers; "lora" for these and adapters
            in the layers of the towers (`jam-fusion[lora]`), which are merged into the result.
        lora_rank: rank of an adapter.
        lora_alpha: an adapter's product is scaled by `lora_alpha / lora_rank`.
        lora_dropout: dropout on the input of an adapter, 0 to 1.
        steps: optimiser steps; give this or `epochs`.
        epochs: passes over the first source, to the nearest step; give this or `steps`.
        context: positions (tokens) of a sequence; default: the model's.
        batch_tokens: positions (tokens) of a step's batch, padding included.
        micro_batch_size: sequences in one forward pass; a batch consists of as many micro-batches as it needs.
        optimizer: "adamw", or "muon" for the matrices inside the blocks and AdamW for the rest.
        lr: peak learning rate.
        lr_factors: factors on the learning rate by part, as {cross: 10} ("text", "image", "cross", "readout"; "tower"
            of a single decoder).
        warmup_steps: steps of a linear warm-up from 0.
        schedule: course of the learning rate after the warm-up.
        min_lr_ratio: learning rate at the end, relative to the peak.
        beta1: AdamW's decay of the mean of gradients.
        beta2: AdamW's decay of the mean of squared gradients.
        eps: AdamW's smallest divisor.
        momentum: momentum of Muon, 0 to 1.
        weight_decay: weight decay of matrices.
        max_grad_norm: gradients are clipped to this norm.
        cm3: train on the causally masked objective; in messages, spans are within the answer.
        learn_turns: answers of a conversation that are learnt: the "last", or "all".
        unconditional_rate: share (0 to 1) of captioned pictures whose text is masked whole, for guidance.
        part_rate: share (0 to 1) of documents that mask exactly one whole part, a picture or a text, for `jam fill`.
        sentinel_weight: weight of predicting a sentinel inside the source.
        image_weight: weight of image tokens, relative to text tokens.
        z_loss: weight of the squared logarithm of the softmax's sum (PaLM, section 5), which keeps logits small.
        max_logits: largest number of logits in memory at a time; the loss is computed in pieces of the positions.
        precision: "bf16" runs matrix products under autocast; with FSDP, parameters are gathered in bf16.
        sharding: with several processes: "full" divides parameters among all processes, "hybrid" among the processes of
            a node, with a copy on every node.
        activation_checkpointing: keep only the inputs of layers, and compute the rest again for the gradients.
        compile: compile every layer and cross block.
        on_bad_step: response to a step whose loss or gradient is no number, or jumps: "stop" ends the run, "skip"
            leaves the weights unchanged, at most 10 times in a row.
        spike: a loss jumps if it exceeds this factor times the mean of the last 32 steps; 0: never.
        validate_every: steps between validations; 0: only at the end.
        validation_documents: largest number of documents of each validation source.
        checkpoint_every: steps between checkpoints, or "epoch" for the end of each epoch; 0: only at the end.
        keep_checkpoints: number of last checkpoints to keep; 0: all.
        keep_epochs: keep the checkpoints at the ends of epochs, too.
        keep_best: save and keep the checkpoint of the best validation, too.
        resume: continue from the last checkpoint in `out`.
        seed: seed of order, masks and packing.
        device: cpu, cuda, cuda:1, ...; default: a GPU if there is one.
        dtype: data type of the trained weights.
    """

    model: str
    out: str
    sources: list[DataSource]
    validation: list[str] = field(default_factory=list)
    stage: Literal["parent", "aligned", "instructed"] = "aligned"
    train: Literal["all", "cross", "lora"] = "all"
    lora_rank: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    steps: int | None = None
    epochs: float | None = None
    context: int | None = None
    batch_tokens: int = 2**23
    micro_batch_size: int = 1
    optimizer: Literal["adamw", "muon"] = "adamw"
    lr: float = 3e-5
    lr_factors: dict[str, float] = field(default_factory=dict)
    warmup_steps: int = 500
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    min_lr_ratio: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    momentum: float = 0.95
    weight_decay: float = 0.1
    max_grad_norm: float = 1.0
    cm3: bool = True
    learn_turns: Literal["last", "all"] = "last"
    unconditional_rate: float = 0.1
    part_rate: float = 0.0
    sentinel_weight: float = 0.0
    image_weight: float = 1.0
    z_loss: float = 0.0
    max_logits: int = 2**25
    precision: Literal["fp32", "bf16"] = "fp32"
    sharding: Literal["full", "hybrid"] = "full"
    activation_checkpointing: bool = False
    compile: bool = False
    on_bad_step: Literal["stop", "skip"] = "stop"
    spike: float = 0.0
    validate_every: int = 0
    validation_documents: int = 256
    checkpoint_every: int | Literal["epoch"] = 0
    keep_checkpoints: int = 2
    keep_epochs: bool = False
    keep_best: bool = False
    resume: bool = False
    seed: int = 0
    device: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"

    def __post_init__(self) -> None:
        check_fields(self)
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(f"give either steps or epochs; got steps {self.steps} and epochs {self.epochs}")
        if not self.sources:
            raise ValueError("sources is empty: name at least one folder of token shards")
        positive = ("steps", "epochs", "context", "batch_tokens", "micro_batch_size", "lr", "max_grad_norm")
        for name in (*positive, "validation_documents", "lora_rank", "lora_alpha", "max_logits"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} is {value}; it must be positive")
        counts = ("warmup_steps", "validate_every", "checkpoint_every", "keep_checkpoints", "seed")
        for name in (*counts, "weight_decay", "z_loss", "spike", "image_weight", "sentinel_weight"):
            value = getattr(self, name)
            if not isinstance(value, str) and value < 0:
                raise ValueError(f"{name} is {value}; it must not be negative")
        for name in ("unconditional_rate", "part_rate", "min_lr_ratio", "momentum", "lora_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie between 0 and 1")
        if self.keep_best and not (self.validation and self.validate_every):
            raise ValueError("keep_best needs validation and validate_every: they say which checkpoint is the best")

    def micro_batches(self, context: int, processes: int = 1) -> int:
        """The number of micro-batches of a batch, for sequences of `context` positions, rounded to the nearest.

        Raises:
            ValueError: the number is below 1 or below the number of processes.
        """
        size = self.micro_batch_size * context
        if self.batch_tokens < size:
            raise ValueError(
                f"batch_tokens is {self.batch_tokens}, less than a micro-batch of {self.micro_batch_size} sequences of "
                f"{context}, which is {size}; raise batch_tokens, or lower micro_batch_size or context"
            )
        count = round(self.batch_tokens / size)
        if count < processes:
            raise ValueError(
                f"batch_tokens is {self.batch_tokens}, which is {count} x {self.micro_batch_size} sequences of "
                f"{context}: too few for {processes} processes; raise batch_tokens, lower micro_batch_size or start "
                "fewer processes"
            )
        return count
