"""`jam plan`."""

from __future__ import annotations

import json
from typing import Any

from jsonargparse import Namespace
from rich.table import Table

from jam.api.planning import plan
from jam.commands.arguments import Parser, make_parser
from jam.console import Console
from jam.planning import GPUS, Plan
from jam.training import TrainConfig

EXAMPLES = """
jam plan recipes/align.yaml --model recipes/models/cross-2 --gpus 256 --gpu a100-80gb
jam plan recipes/align.yaml --model fused --gpu rtx-4090 --train cross --activation-checkpointing true
jam plan recipes/instruct.yaml --model fused --gpus 8 --gpu h100-80gb --tokens 60e6 --json
"""
RECIPE = True
OWN = ("config", "gpus", "gpu", "mfu", "image_share", "tokens", "gpus_per_node", "json")


def parser() -> Parser:
    description = "Say what a run of a recipe needs, from the model's config.json alone; every key is an option too."
    parser = make_parser("plan", description, EXAMPLES)
    parser.add_argument("--config", action="config", help="the recipe; may stand first without --config")
    parser.add_argument("--gpus", type=int, default=1, help="how many GPUs")
    parser.add_argument("--gpu", type=str, default="h100-80gb", help=f"one of {', '.join(GPUS)}")
    parser.add_argument(
        "--mfu", type=float, default=0.45, help="share of the GPU's operations that are the model's, above 0 to 1"
    )
    parser.add_argument("--image_share", type=float, default=0.5, help="share of image tokens, 0 to 1")
    parser.add_argument(
        "--tokens", type=float | None, default=None, help="tokens of the whole run; default: steps x batch_tokens"
    )
    parser.add_argument(
        "--gpus_per_node", type=int, default=8, help="GPUs of a node, which share parameters in hybrid sharding"
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON, on stdout")
    parser.add_class_arguments(TrainConfig, skip={"resume", "out"})
    parser.alternatives = {"steps": "epochs", "epochs": "steps"}
    return parser


def run(settings: Namespace) -> None:
    recipe = TrainConfig(out="", **{key: value for key, value in vars(settings).items() if key not in OWN})
    planned = plan(
        recipe,
        settings.gpus,
        settings.gpu,
        mfu=settings.mfu,
        image_share=settings.image_share,
        tokens=None if settings.tokens is None else int(settings.tokens),
        gpus_per_node=settings.gpus_per_node,
    )
    if settings.json:
        print(json.dumps(planned.to_json(), indent=2))
    else:
        show(planned, recipe, Console(soft_wrap=True, highlight=False))


def show(plan: Plan, recipe: TrainConfig, console: Console) -> None:
    values = plan.to_json()
    table = Table("part", "parameters", "trained", title="parameters", title_justify="left")
    for part in plan.parts:
        table.add_row(part.name, f"{part.parameters:,}", f"{part.trained:,}")
    table.add_row("all", f"{values['parameters']:,}", f"{values['trained']:,}")
    console.print(table)
    table = Table("kind", "GB", title=f"memory of each of {plan.gpus} {plan.gpu.name}", title_justify="left")
    for kind, count in values["memory"].items():
        table.add_row(kind, f"{count / 1e9:.2f}")
    console.print(table)
    table = Table("operations of a token", "GFLOP", title_justify="left")
    names = {"attention": "of these attention, forward and backward", "recomputed": "recomputed, not counted as work"}
    for kind in ("forward", "input_gradients", "weight_gradients", "work", "attention", "recomputed"):
        table.add_row(names.get(kind, kind.replace("_", " ")), f"{values['flops_per_token'][kind] / 1e9:.2f}")
    console.print(table)
    console.print(_time(plan, recipe, values))
    how = f"{plan.memory.total / 1e9:.1f} GB of {plan.available / 1e9:.1f} GB that can be used on each GPU"
    if plan.fits:
        console.print(f"fits: {how}")
        return
    console.print(f"does not fit: {how}; {'what to change:' if plan.advice else 'take more or larger GPUs'}")
    for line in plan.advice:
        console.print(f"  {line}", markup=False)


def _time(plan: Plan, recipe: TrainConfig, values: dict[str, Any]) -> str:
    speed = f"{plan.tokens_per_second:,.0f} tokens/s at a utilisation (MFU) of {plan.utilisation:.0%}"
    if plan.tokens is None:
        return f"{speed}; the recipe has {recipe.epochs:g} epochs: say with --tokens how many tokens these are"
    return (
        f"{plan.tokens:,} tokens, {speed}: {values['days']:.2f} days, {values['gpu_hours']:,.0f} GPU-hours "
        f"on {plan.gpus} {plan.gpu.name}"
    )
