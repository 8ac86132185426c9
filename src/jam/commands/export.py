"""`jam export`."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import Namespace

from jam.api.exporting import export
from jam.commands.arguments import Parser, make_parser
from jam.console import Console

EXAMPLES = """
jam export runs/instruct --out instruct-latest
jam export runs/instruct --step 9000 --out instruct-9
"""


def parser() -> Parser:
    parser = make_parser("export", "Write a model folder from a checkpoint of a run, which may still run.", EXAMPLES)
    parser.add_argument("run", type=Path, help="the --out of `jam train`")
    parser.add_argument("--out", type=Path, required=True, help="model folder to write; it must not exist")
    parser.add_argument("--step", type=int | None, default=None, help="step of the checkpoint; default: the last")
    parser.add_argument(
        "--model", type=str | None, default=None, help="folder that the run began with; default: where it was"
    )
    return parser


def run(settings: Namespace) -> None:
    step, stage = export(settings.run, settings.out, settings.step, settings.model)
    Console().print(f"{settings.out}: the model at step-{step:06d}, stage {stage}", soft_wrap=True)
