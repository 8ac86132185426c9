"""Utilisation of a GPU by the layers of a cross model: `python benchmarks/layers.py --gpu h100-80gb`.

A stack of layer pairs of the paper's width (4096, 32 heads, matrices of 4096 x 16384) with cross blocks behind every
second one, as many as fit, and a small vocabulary. Weights and gradients are bfloat16, there is no optimiser, so that
more layers fit. Timed are forward, loss and backward of whole rows of 4,096 positions; the median counts. Operations
are those of `jam plan` (docs/plan.md): 2 for each value of a matrix forward and 4 backward, attention by what a causal
mask lets through; what `--recompute` computes again is no work. On a CPU (`--device cpu --width 64 --pairs 2`) it only
runs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from transformers import OPTConfig

from jam.grammar import State
from jam.models import CrossConfig
from jam.models.scoring import weighted_loss
from jam.planning import Gpu, find_gpu, make_plan
from jam.planning.flops import flops_per_token
from jam.planning.network import build
from jam.planning.plan import USABLE
from jam.training import DataSource, TrainConfig

TEXT, IMAGE, SENTINELS = 1024, 256, 16
EVERY = 2


@dataclass(frozen=True)
class Measured:
    """Of one step: parameters, operations, seconds, and the greatest memory of a GPU in bytes."""

    parameters: int
    operations: float
    seconds: float
    memory: int

    def utilisation(self, gpu: Gpu) -> float:
        return self.operations / self.seconds / (gpu.tflops * 1e12)


def model_config(pairs: int, width: int, context: int) -> CrossConfig:
    """Two OPTs as the paper's: no biases."""
    sizes: dict[str, Any] = {
        "hidden_size": width,
        "word_embed_proj_dim": width,
        "ffn_dim": 4 * width,
        "num_hidden_layers": pairs,
        "num_attention_heads": max(1, width // 128),
        "max_position_embeddings": context,
        "enable_bias": False,
        "layer_norm_elementwise_affine": False,
        "dropout": 0.0,
    }
    controls = {"image_start": TEXT, "control_start": TEXT + IMAGE, "control_size": 2 + SENTINELS}
    return CrossConfig(
        text_config=OPTConfig(vocab_size=TEXT, **sizes),
        image_config=OPTConfig(vocab_size=TEXT + IMAGE + 2 + SENTINELS, **sizes),
        vocabulary={"text_size": TEXT, "image_size": IMAGE, "eos_id": 0, "sentinels": SENTINELS},
        image_grid=[16, 16],
        text_rows={"text_size": TEXT},
        image_rows={"text_size": TEXT} | controls,
        cross_every=EVERY,
    )


def recipe(context: int, batch: int, recompute: bool, compiled: bool) -> TrainConfig:
    return TrainConfig(
        model="",
        out="",
        sources=[DataSource("")],
        steps=1,
        context=context,
        micro_batch_size=batch,
        batch_tokens=batch * context,
        activation_checkpointing=recompute,
        compile=compiled,
        dtype="bfloat16",
    )


def most_pairs(gpu: Gpu, width: int, settings: TrainConfig) -> int:
    """How many fit: what a pair adds is the same for all."""
    assert settings.context is not None
    needed = []
    for pairs in (EVERY, 2 * EVERY):
        memory = make_plan(model_config(pairs, width, settings.context), settings, gpu, advise=False).memory
        needed.append(memory.weights + memory.gradients + memory.activations + memory.logits)
    left = USABLE * gpu.memory * 1e9 - needed[0]
    return EVERY * max(1, 1 + int(left / (needed[1] - needed[0])))


def measure(pairs: int, width: int, settings: TrainConfig, device: torch.device, steps: int) -> Measured:
    """The median of `steps` steps behind three that warm up."""
    context, batch = settings.context, settings.micro_batch_size
    assert context is not None
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            model = build(model_config(pairs, width, context), settings)
    finally:
        torch.set_default_dtype(before)
    ids = torch.randint(5, TEXT, (batch, context + 1), device=device)
    positions = torch.arange(context, device=device).expand(batch, context)
    states = torch.full((batch * context,), int(State.TEXT), device=device)
    weights = torch.ones(batch * context, device=device)
    seconds = []
    for _ in range(3 + steps):
        started = clock(device)
        hidden = model.hidden(ids[:, :-1], positions).flatten(0, 1)
        loss, _ = weighted_loss(model, hidden, ids[:, 1:].flatten(), states, weights)
        (loss / len(states)).backward()
        seconds.append(clock(device) - started)
        model.zero_grad(set_to_none=True)
    memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    operations = batch * context * flops_per_token(model, context, 0.0, settings.activation_checkpointing).work
    return Measured(model.num_parameters(), operations, statistics.median(seconds[3:]), memory)


def clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", default="h100-80gb", help="whose operations a second are the whole")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--pairs", type=int, help="layer pairs; default: as many as fit")
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--batch", type=int, default=1, help="rows of a step")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--recompute", action="store_true", help="activation_checkpointing")
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    gpu, device = find_gpu(options.gpu), torch.device(options.device)
    settings = recipe(options.context, options.batch, options.recompute, options.compile)
    pairs = options.pairs or most_pairs(gpu, options.width, settings)
    found = measure(pairs, options.width, settings, device, options.steps)
    where = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"{where}, torch {torch.__version__}: {pairs} layer pairs, {found.parameters / 1e9:.3g}B parameters")
    print(
        f"{options.batch} x {options.context} tokens: {found.operations / 1e12:.4g} TFLOP of work in "
        f"{found.seconds:.4g} s, {found.operations / found.seconds / 1e12:.4g} TFLOP/s"
    )
    if device.type == "cuda":
        utilisation = found.utilisation(gpu)
        print(f"{utilisation:.1%} of the {gpu.tflops:g} TFLOP/s of {gpu.name}; {found.memory / 1e9:.1f} GB at most")


if __name__ == "__main__":
    main()
