"""The plan of a run: parameters, memory, operations and time, and advice if the run does not fit."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig

from jam.models import JointModel
from jam.planning.flops import Flops, flops_per_token
from jam.planning.gpus import Gpu
from jam.planning.network import Part, build, parts
from jam.planning.simulate import PassMemory, simulate
from jam.training import TrainConfig

USABLE = 0.92  # share of a GPU's memory; the driver, libraries and gaps between blocks take the rest
LOGIT_BYTES = 20  # per logit while its piece is scored: product, whole row, fp32, softmax and gradient
DAY = 86_400.0


@dataclass(frozen=True)
class Memory:
    """Bytes of one GPU, by kind.

    Args:
        gathered: with several GPUs, parameters and gradients of layers that are whole for a moment.
        activations: activations at the peak.
        logits: a piece of the logits and the readout's gradients during scoring; 0 if the peak is at another moment.
    """

    weights: float
    gradients: float
    optimizer: float
    gathered: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        return sum(asdict(self).values())


@dataclass(frozen=True)
class Plan:
    """The needs of a run.

    Args:
        tokens: positions of the whole run; None if the recipe counts epochs, since a plan does not know the data.
    """

    gpu: Gpu
    gpus: int
    utilisation: float
    parts: list[Part]
    memory: Memory
    flops: Flops
    context: int
    batch_tokens: int
    tokens: int | None
    tokens_per_second: float
    advice: list[str]

    @property
    def seconds(self) -> float | None:
        return None if self.tokens is None else self.tokens / self.tokens_per_second

    @property
    def available(self) -> float:
        return USABLE * self.gpu.memory * 1e9

    @property
    def fits(self) -> bool:
        return self.memory.total <= self.available

    def to_json(self) -> dict[str, Any]:
        seconds = self.seconds
        return {
            "parameters": sum(part.parameters for part in self.parts),
            "trained": sum(part.trained for part in self.parts),
            "parts": [asdict(part) for part in self.parts],
            "gpu": asdict(self.gpu),
            "gpus": self.gpus,
            "memory": asdict(self.memory) | {"total": self.memory.total, "available": self.available},
            "fits": self.fits,
            "flops_per_token": asdict(self.flops) | {"work": self.flops.work},
            "context": self.context,
            "batch_tokens": self.batch_tokens,
            "tokens": self.tokens,
            "utilisation": self.utilisation,
            "tokens_per_second": self.tokens_per_second,
            "days": None if seconds is None else seconds / DAY,
            "gpu_hours": None if seconds is None else seconds * self.gpus / 3600,
            "advice": self.advice,
        }


def make_plan(
    config: PretrainedConfig,
    recipe: TrainConfig,
    gpu: Gpu,
    gpus: int = 1,
    utilisation: float = 0.45,
    image_share: float = 0.5,
    tokens: int | None = None,
    gpus_of_node: int = 8,
    advise: bool = True,
) -> Plan:
    """Plan a run of `recipe` with a model of `config`.

    Args:
        utilisation: share of the GPU's operations that the model uses (MFU; `flops.Flops.work`).
        image_share: share of image tokens.
        tokens: positions of the whole run; default: the recipe's steps times its batch.
        gpus_of_node: number of GPUs that divide the parameters if the recipe's sharding is hybrid.

    Raises:
        ValueError: the recipe does not fit the model or the number of GPUs.
    """
    for name, count in (("gpus", gpus), ("gpus_per_node", gpus_of_node), ("tokens", tokens)):
        if count is not None and count < 1:
            raise ValueError(f"{name} is {count}; it must be 1 or more")
    if not 0 < utilisation <= 1:
        raise ValueError(f"mfu is {utilisation}; it is a share, above 0 and at most 1")
    if not 0 <= image_share <= 1:
        raise ValueError(f"image_share is {image_share}; it is a share, from 0 to 1")
    longest = config.max_position_embeddings
    context = recipe.context or longest
    if context > longest:
        raise ValueError(f"context is {context}, the model takes {longest} positions; set a shorter --context")
    recipe.micro_batches(context, gpus)
    with torch.device("meta"):
        network = build(config, recipe)
    flops = flops_per_token(network, context, image_share, recipe.activation_checkpointing)
    if tokens is None and recipe.steps is not None:
        tokens = recipe.steps * recipe.batch_tokens
    speed = gpus * gpu.tflops * 1e12 * utilisation / flops.work
    memory = _memory(network, config, recipe, context, image_share, gpus, gpus_of_node)
    plan = Plan(
        gpu, gpus, utilisation, parts(network), memory, flops, context, recipe.batch_tokens, tokens, speed, advice=[]
    )
    if advise and not plan.fits:
        again = partial(
            make_plan,
            config,
            gpu=gpu,
            utilisation=utilisation,
            image_share=image_share,
            tokens=tokens,
            gpus_of_node=gpus_of_node,
            advise=False,
        )
        return replace(plan, advice=_advice(plan, recipe, again))
    return plan


def _memory(
    network: JointModel,
    config: PretrainedConfig,
    recipe: TrainConfig,
    context: int,
    image_share: float,
    gpus: int,
    gpus_of_node: int,
) -> Memory:
    dtype = getattr(torch, recipe.dtype)
    is_divided = gpus > 1
    # FSDP computes with gathered parameters of the narrow type; a single process uses autocast.
    narrow = torch.bfloat16 if is_divided and recipe.precision == "bf16" else dtype
    passing = replace(recipe, precision="fp32") if is_divided else recipe
    found = simulate(lambda: build(config, recipe), passing, context, narrow)
    shards = 1 if not is_divided else (min(gpus, gpus_of_node) if recipe.sharding == "hybrid" else gpus)
    whole = sum(parameter.numel() for parameter in network.parameters()) * dtype.itemsize
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    gradients = sum(parameter.numel() for parameter in trained) * dtype.itemsize
    readout = [weight for weight in network.readout_weights() if weight.requires_grad]
    readout_gradients = 4 * sum(weight.numel() for weight in readout)
    positions = context * recipe.micro_batch_size
    # A piece has positions of one modality.
    most = max(image_share, 1 - image_share) * positions * config.vocab_size
    scored = LOGIT_BYTES * min(max(recipe.max_logits, config.vocab_size), most)
    scored += readout_gradients + 2 * 4 * positions * sum(
        weight.shape[1] for weight in network.readout_weights()
    )  # states and gradients
    accumulates = recipe.batch_tokens > positions * gpus
    optimizer = _optimizer_bytes(network, recipe, dtype)
    gathered = 0.0
    if is_divided:
        gathered = _gathered(network, narrow)
        held = gradients / shards
        activations, logits = _greater(found, scored)
    elif accumulates:
        held, (activations, logits) = gradients, _greater(found, scored)
    else:
        # The first micro-batch creates gradients while it frees activations.
        held, activations, logits = _growing(found, scored, readout_gradients, gradients)
    return Memory(whole / shards, held, optimizer / shards, gathered, activations, logits)


def _greater(found: PassMemory, scored: float) -> tuple[float, float]:
    """Activations and logits at the greater of two peaks: while logits are scored, and in the backward pass."""
    return (found.kept, scored) if found.kept + scored > found.peak else (found.peak, 0.0)


def _growing(
    found: PassMemory, scored: float, readout_gradients: float, gradients: float
) -> tuple[float, float, float]:
    """Gradients, activations and logits at the peak of a step of one micro-batch."""
    moments = {
        "scored": (0.0, float(found.kept), scored),
        "backward": (readout_gradients, float(found.peak_with_gradients), 0.0),
        "end": (float(gradients), 0.0, 0.0),
    }
    return max(moments.values(), key=sum)


def _optimizer_bytes(network: JointModel, recipe: TrainConfig, dtype: torch.dtype) -> float:
    """Bytes of the moments: two for AdamW, one for Muon (for the matrices inside the blocks)."""
    inside = {id(inner.weight) for block in network.blocks for inner in block.modules() if isinstance(inner, nn.Linear)}
    count = 0
    for parameter in network.parameters():
        if parameter.requires_grad:
            moments = 1 if recipe.optimizer == "muon" and id(parameter) in inside else 2
            count += moments * parameter.numel()
    return count * dtype.itemsize


def _gathered(network: JointModel, narrow: torch.dtype) -> float:
    """Bytes of whole tensors in a step: all around the layers, two layer pairs, and the gradients of one pair."""
    sizes: dict[int, list[int]] = {}
    inside = 0
    for pair, parameters in _pairs(network).items():
        sizes[pair] = [
            sum(parameter.numel() for parameter in parameters),
            sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        ]
        inside += sizes[pair][0]
    everything = list(network.parameters())
    around = sum(parameter.numel() for parameter in everything) - inside
    around_trained = sum(parameter.numel() for parameter in everything if parameter.requires_grad)
    around_trained -= sum(size[1] for size in sizes.values())
    largest, trained = (max((size[kind] for size in sizes.values()), default=0) for kind in (0, 1))
    return narrow.itemsize * (around + around_trained + 2 * largest + trained) + 4 * trained  # sums are fp32


def _pairs(network: JointModel) -> dict[int, list[nn.Parameter]]:
    """Parameters by depth: the layers of both towers and the cross blocks after these layers."""
    pairs = network.layer_pairs()
    return {depth: [p for block in pair for p in block.parameters()] for depth, pair in enumerate(pairs)}


def _advice(plan: Plan, recipe: TrainConfig, again: Any) -> list[str]:
    """Changes from the smallest on, with the memory of each, up to the first that fits.

    A change that raises here (adapters without PEFT) is left out.
    """
    found: list[str] = []
    changed = recipe
    steps: list[tuple[str, dict[str, Any]]] = []
    if recipe.micro_batch_size > 1:
        steps.append(("micro_batch_size 1", {"micro_batch_size": 1}))
    if not recipe.activation_checkpointing:
        steps.append(("activation_checkpointing true", {"activation_checkpointing": True}))
    if recipe.train == "all":
        is_cross = any(part.name == "cross blocks" for part in plan.parts)
        how = "cross" if is_cross else "lora"
        steps.append((f"train {how}", {"train": how}))
    if recipe.dtype == "float32":
        steps.append(("dtype bfloat16 (weights, gradients and moments rounded)", {"dtype": "bfloat16"}))
    named: list[str] = []
    for name, change in steps:
        tried = replace(changed, **change)
        try:
            attempt = again(recipe=tried, gpus=plan.gpus)
        except ValueError:
            continue
        changed = tried
        named.append(name)
        verdict = "fits" if attempt.fits else "does not fit"
        found.append(f"{', '.join(named)}: {attempt.memory.total / 1e9:.1f} GB, {verdict}")
        if attempt.fits:
            break
    micro_batch = recipe.micro_batch_size * plan.context
    divided = replace(recipe, sharding="full", batch_tokens=2 * plan.gpus * micro_batch)
    if needed := _gpus_needed(again(recipe=divided, gpus=2 * plan.gpus)):
        least = needed * micro_batch
        raised = "" if recipe.batch_tokens >= least else f", batch_tokens {least}"
        found.append(f"{needed} of these GPUs, sharding full{raised}: fits")
    return found


def _gpus_needed(plan: Plan) -> int | None:
    """The number of GPUs that suffice; they divide weights, gradients and moments of `plan`, but not the rest."""
    divided = plan.memory.weights + plan.memory.gradients + plan.memory.optimizer
    left = plan.available - (plan.memory.total - divided)
    return max(2, math.ceil(divided * plan.gpus / left)) if left > 0 else None
