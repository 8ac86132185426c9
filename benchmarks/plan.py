"""Memory that `jam plan` predicts, against what a training step takes: `python benchmarks/plan.py [--device cuda]`.

Each setting runs two whole steps (forward, loss in pieces, backward, optimiser) in a process of its own. On the CPU the
measured figure is the greatest resident memory beyond what the libraries take before there is a model; on a GPU the
greatest that torch had allocated. The C library is told to give freed blocks back at once (MALLOC_MMAP_THRESHOLD_);
otherwise it keeps some, and the resident memory is 10 to 30 % greater than what is in use.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, OPTConfig

from jam.models import CrossConfig
from jam.models.scoring import weighted_loss
from jam.planning import find_gpu, make_plan
from jam.planning.network import build
from jam.training import DataSource, TrainConfig
from jam.training.optimizers import make_optimizers

TEXT, IMAGE, SENTINELS = 8192, 1024, 16
BASE = TrainConfig(
    model="", out="", sources=[DataSource("")], steps=2, context=512, micro_batch_size=4, batch_tokens=4 * 512
)
SETTINGS: dict[str, dict[str, Any]] = {
    "all": {},
    "all, accumulated": {"batch_tokens": 8 * 512},
    "all, activations recomputed": {"activation_checkpointing": True},
    "all, micro-batch 8": {"micro_batch_size": 8, "batch_tokens": 8 * 512},
    "all, Muon": {"optimizer": "muon"},
    "cross": {"train": "cross"},
    "cross, activations recomputed": {"train": "cross", "activation_checkpointing": True},
    "all, bf16": {"precision": "bf16", "micro_batch_size": 2, "batch_tokens": 2 * 512},
}


def model_config(scale: int) -> CrossConfig:
    """An OPT and a Llama side by side: 56M parameters at scale 1, width times `scale`."""
    size = 384 * scale
    text = OPTConfig(
        vocab_size=TEXT,
        hidden_size=size,
        word_embed_proj_dim=size,
        ffn_dim=4 * size,
        num_hidden_layers=8,
        num_attention_heads=size // 64,
        max_position_embeddings=2048,
        dropout=0.0,
    )
    image = LlamaConfig(
        vocab_size=TEXT + IMAGE + 2 + SENTINELS,
        hidden_size=size,
        intermediate_size=3 * size,
        num_hidden_layers=8,
        num_attention_heads=size // 64,
        max_position_embeddings=2048,
    )
    rows = {"text_size": TEXT}
    controls = {"image_start": TEXT, "control_start": TEXT + IMAGE, "control_size": 2 + SENTINELS}
    return CrossConfig(
        text_config=text,
        image_config=image,
        vocabulary={"text_size": TEXT, "image_size": IMAGE, "eos_id": 0, "sentinels": SENTINELS},
        image_grid=[16, 16],
        text_rows=rows,
        image_rows=rows | controls,
        cross_every=2,
    )


def measure(recipe: TrainConfig, config: CrossConfig, device: torch.device) -> int:
    """Greatest memory of two steps in bytes."""
    (torch.randn(512, 512, requires_grad=True) @ torch.randn(512, 512)).sum().backward()  # threads and kernels
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the greatest so far
    with device:
        model = build(config, recipe)
    optimizers = make_optimizers(model, recipe)
    for _ in range(2):
        for _ in range(recipe.batch_tokens // (recipe.micro_batch_size * BASE.context)):
            micro_batch(model, recipe, device)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return _resident("VmHWM") - before


def micro_batch(model: Any, recipe: TrainConfig, device: torch.device) -> None:
    """Half of the positions are text, half image codes."""
    size, time = recipe.micro_batch_size, BASE.context
    grammar = model.grammar
    states = grammar.states([0, *range(5, 5 + time // 2)])[1:2] * (time // 2)
    image = grammar.states([0, grammar.vocabulary.break_id, TEXT, TEXT])[2:3] * (time - time // 2)
    states = torch.tensor([*states, *image], device=device).expand(size, time).reshape(-1)
    text_ids, image_ids = (
        torch.randint(5, TEXT, (size, time // 2)),
        torch.randint(TEXT, TEXT + IMAGE, (size, time // 2)),
    )
    ids = torch.cat([text_ids, image_ids], dim=1).to(device)
    positions = torch.arange(time, device=device).expand(size, time)
    with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
        hidden = model.hidden(ids, positions).flatten(0, 1)
        weights = torch.ones(len(states), device=device)
        loss, _ = weighted_loss(model, hidden, ids.flatten(), states, weights, max_logits=recipe.max_logits)
    (loss / len(states)).backward()


def _resident(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scale", type=int, default=1, help="width of the model, times 384")
    parser.add_argument("--only", choices=SETTINGS, help="measure one setting in this process and print its figures")
    arguments = parser.parse_args()
    config = model_config(arguments.scale)
    if arguments.only:
        recipe = replace(BASE, **SETTINGS[arguments.only])
        measured = measure(recipe, config, torch.device(arguments.device))
        plan = make_plan(config, recipe, find_gpu("h100-80gb"), advise=False)
        parameters = sum(part.parameters for part in plan.parts)
        print(json.dumps({"measured": measured, "predicted": plan.memory.total, "parameters": parameters}))
        return
    print(f"torch {torch.__version__}, {arguments.device}; measured, predicted in MB, difference")
    for name in SETTINGS:
        command = [sys.executable, __file__, "--only", name, "--device", arguments.device]
        command += ["--scale", str(arguments.scale)]
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**18)}
        *_, line = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, env=environment
        ).stdout.splitlines()
        found = json.loads(line)
        measured, predicted = found["measured"] / 1e6, found["predicted"] / 1e6
        size = f"{found['parameters'] / 1e6:.1f}M"
        print(f"{name:<32} {size} {measured:8.0f} {predicted:8.0f} {predicted / measured - 1:+7.1%}", flush=True)


if __name__ == "__main__":
    main()
