"""`jam prepare`."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import Namespace
from rich.console import Console

from jam.checkpoints.folders import refuse_existing
from jam.commands.arguments import Parser, add_placement, make_parser
from jam.commands.files import count_documents, read_all
from jam.commands.progress import progress_bar
from jam.data import prepare
from jam.model import load_codec

EXAMPLES = """
jam prepare captions.jsonl howto.jsonl --model fused --out shards
"""


def parser() -> Parser:
    made = make_parser("prepare", "Turn documents (JSON lines) into token shards for `jam train`.", EXAMPLES)
    made.add_argument("documents", nargs="+", type=Path, help="JSON-lines files, pictures beside them")
    made.add_argument("--model", type=Path, required=True, help="model folder whose tokenizers are used")
    made.add_argument("--out", type=Path, required=True, help="folder to write; it must not exist")
    add_placement(made, dtype=False)
    return made


def run(settings: Namespace) -> None:
    console = Console()
    refuse_existing(settings.out)
    total = count_documents(settings.documents)
    codec = load_codec(settings.model, settings.device)
    summary: dict[str, int | str] = {}
    with progress_bar(console, transient=True) as progress:
        task = progress.add_task("preparing", total=total, figures="")
        for summary in prepare(read_all(settings.documents), codec, settings.out):
            figures = f"{summary['images']} pictures, {summary['tokens']} tokens"
            progress.update(task, completed=int(summary["documents"]), figures=figures)
    console.print(
        f"{settings.out}: {summary['documents']} documents, {summary['images']} pictures, {summary['tokens']} tokens",
        soft_wrap=True,
        markup=False,
    )
