"""`jam fuse`."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from jsonargparse import Namespace
from rich.table import Table

from jam.checkpoints import Hashes
from jam.commands.arguments import Parser, make_parser
from jam.console import Console
from jam.console.progress import bytes_bar
from jam.fusion.config import FuseConfig, parents_files

if TYPE_CHECKING:
    from jam.fusion import FusionPlan, PlannedTensor

EXAMPLES = """
jam fuse --text llm --image image-model --out fused
jam fuse --text llm --image image-model --image-tokenizer vqgan --out fused --method cross --every 4
jam fuse --text deepseek-ai/deepseek-llm-7b-base --image deepseek-community/Janus-Pro-7B --out fused
jam fuse --text llm --image image-model --out wide --method width --init average
jam fuse --text owner/llm --image owner/image-model@main --out average --method uniform --weight 0.3
jam fuse recipes/fuse/cross-1.yaml --text llm --image image-model --out fused
jam fuse --text llm --image image-model --plan --json > plan.json
"""
RECIPE = True


def parser() -> Parser:
    parser = make_parser("fuse", "Fuse two checkpoints into one model folder, or show the plan of it.", EXAMPLES)
    parser.add_argument("--config", action="config", help="a recipe (YAML); may stand first without --config")
    parser.add_class_arguments(FuseConfig, skip={"plan"})
    parser.add_argument("--plan", action="store_true", help="show the plan only; each parent's config.json is enough")
    parser.add_argument("--json", action="store_true", help="with --plan: as JSON on stdout, all else on stderr")
    return parser


def read_config(settings: Namespace) -> FuseConfig:
    return FuseConfig(**{key: value for key, value in vars(settings).items() if key not in ("config", "json")})


def run(settings: Namespace) -> None:
    config = read_config(settings)
    console = Console(stderr=settings.json, highlight=False, soft_wrap=True)
    with Hashes() as hashes, bytes_bar(console) as on_bytes:
        if not config.plan:
            for path in parents_files(config):
                hashes.begin(path)
        # Torch and transformers are imported while threads hash the parents.
        from jam.fusion import fuse

        plan = fuse(config, say=console.print, on_bytes=on_bytes, hashes=hashes)
    if settings.json:
        print(json.dumps(plan.to_json(config.max_shard_bytes), indent=1))
    elif config.plan:
        console.print(table(plan), soft_wrap=False)
    if config.plan:
        for note in plan.notes:
            console.print(f"note: {note}")


def table(plan: FusionPlan) -> Table:
    """The plan as a table; tensors that differ only in the layer's number share a row."""
    groups: dict[tuple[str, ...], list[PlannedTensor]] = {}
    for tensor in plan.tensors:
        key = (_any_layer(tensor.name), " x ".join(map(str, tensor.shape)), _origin(tensor), tensor.operation)
        groups.setdefault(key, []).append(tensor)
    table = Table(title=plan.summary, title_justify="left")
    table.add_column("tensor", overflow="fold")
    for heading in ("shape", "number", "parameters"):
        table.add_column(heading, justify="right")
    for heading in ("from", "operation"):
        table.add_column(heading, overflow="fold", max_width=34)
    for (name, shape, origin, operation), members in groups.items():
        parameters = sum(tensor.info.count for tensor in members)
        table.add_row(name, shape, str(len(members)), f"{parameters:,}", origin, operation)
    return table


def _any_layer(name: str) -> str:
    return re.sub(r"\.\d+\.", ".*.", name)


def _origin(tensor: PlannedTensor) -> str:
    """The sources in short: only roles if the result's tensor has the parent's name."""
    roles = " + ".join(dict.fromkeys(source.role for source in tensor.sources)) or "-"
    names = {_any_layer(source.name) for source in tensor.sources if not tensor.name.endswith(source.name)}
    return f"{roles}: {', '.join(sorted(names))}" if names else roles
