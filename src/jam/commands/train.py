"""`jam train`."""

from __future__ import annotations

import json

from jsonargparse import Namespace

from jam.api.training import open_trainer
from jam.commands.arguments import Parser, make_parser
from jam.console import Console
from jam.console.training import run_training
from jam.training import LEFT_OUT, RESULT, TrainConfig
from jam.training.allocator import keep_freed_blocks
from jam.training.distributed import World, join, leave

EXAMPLES = """
jam train recipes/align.yaml --model fused --out runs/align
jam train recipes/instruct.yaml --model runs/align/model --out runs/instruct --lr 2e-5
jam train recipes/align.yaml --model fused --out runs/align --resume
torchrun --nproc-per-node 8 -m jam.cli train recipes/align.yaml --model fused --out runs/align
jam train recipes/align.yaml --model fused --out runs/cross --train cross --lr 1e-4
jam train --model fused --out try --sources shards --steps 30 --warmup-steps 3 --batch-tokens 4096
"""
RECIPE = True
SHOWN = 3  # left-out documents in a message


def parser() -> Parser:
    parser = make_parser("train", "Align or instruct-tune by a recipe (YAML); every key is an option too.", EXAMPLES)
    parser.add_argument("--config", action="config", help="the recipe; may stand first without --config")
    parser.add_class_arguments(TrainConfig, skip={"resume"})
    parser.add_argument("--resume", action="store_true", help="resume from the last checkpoint in --out")
    parser.alternatives = {"steps": "epochs", "epochs": "steps"}
    return parser


def read_config(settings: Namespace) -> TrainConfig:
    """The settings of a run, from parsed arguments. Raises ValueError for values that do not fit together."""
    return TrainConfig(**{key: value for key, value in vars(settings).items() if key != "config"})


def run(settings: Namespace) -> None:
    config = read_config(settings)
    world = join(config.device)
    console = Console(quiet=not world.is_first)
    try:
        train(config, world, console)
    finally:
        leave()


def train(config: TrainConfig, world: World, console: Console) -> None:
    model, trainer = open_trainer(config, world)
    if trainer.device.type == "cpu":
        keep_freed_blocks()
    processes = f" on {world.size} processes" if world.size > 1 else ""
    console.print(
        f"{trainer.steps} steps of {trainer.accumulation} x {config.micro_batch_size} x {trainer.context} tokens "
        f"from {config.model} ({model.manifest.stage}){processes}"
    )
    if trainer.left_out:
        shown = "; ".join(trainer.left_out[:SHOWN])
        console.print(
            f"left out: {len(trainer.left_out)} documents (all in {config.out}/{LEFT_OUT}): {shown}",
            soft_wrap=True,
            markup=False,
        )
    try:
        run_training(trainer, "training", console)
    finally:
        trainer.checkpoints.finish()  # so that an error of the terminal costs no checkpoint
    if trainer.validation_report.get("all_tokens"):
        console.print(f"validation: {json.dumps(trainer.validation_report)}", soft_wrap=True)
    console.print(
        f"{config.out}/{RESULT}: the trained model, stage {config.stage}; records are in {config.out}",
        soft_wrap=True,
        markup=False,
    )
