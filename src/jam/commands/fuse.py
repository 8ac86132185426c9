"""`jam fuse`."""

from __future__ import annotations

from jsonargparse import Namespace

from jam.checkpoints import Hashes
from jam.commands.arguments import Parser, make_parser
from jam.fusion.config import FuseConfig, parents_files

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
    made = make_parser("fuse", "Fuse two checkpoints into one model folder, or show the plan of it.", EXAMPLES)
    made.add_argument("--config", action="config", help="a recipe (YAML); may stand first without --config")
    made.add_class_arguments(FuseConfig, skip={"plan", "json"})
    made.add_argument("--plan", action="store_true", help="show what would happen; each parent's config.json is enough")
    made.add_argument("--json", action="store_true", help="with --plan: as JSON on stdout, all else on stderr")
    return made


def read_config(settings: Namespace) -> FuseConfig:
    return FuseConfig(**{key: value for key, value in vars(settings).items() if key != "config"})


def run(settings: Namespace) -> None:
    config = read_config(settings)
    with Hashes() as hashes:
        if not config.plan:
            for path in parents_files(config):
                hashes.begin(path)
        # Torch and transformers are imported while the parents are hashed already.
        from jam.fusion import fuse

        fuse(config, hashes=hashes)
