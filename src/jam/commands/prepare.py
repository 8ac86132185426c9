"""`jam prepare`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jsonargparse import Namespace
from rich.console import Console

from jam.commands.arguments import Parser, add_placement, make_parser
from jam.data import prepare
from jam.commands.progress import progress_bar
from jam.documents import Document, read_documents
from jam.model import load

EXAMPLES = """
jam prepare captions.jsonl howto.jsonl --model fused --out shards
"""


def parser() -> Parser:
    made = make_parser("prepare", "Turn documents (JSON lines) into token shards for `jam train`.", EXAMPLES)
    made.add_argument("documents", nargs="+", type=Path, help="JSON-lines files")
    made.add_argument("--model", type=Path, required=True, help="model folder whose tokenizers are used")
    made.add_argument("--out", type=Path, required=True, help="folder to write; it must not exist")
    add_placement(made)
    return made


def run(settings: Namespace) -> None:
    console = Console()
    codec = load(settings.model, settings.device, settings.dtype).codec
    total = sum(1 for path in settings.documents for _ in read_documents(path))
    summary: dict[str, int | str] = {}
    with progress_bar(console) as progress:
        task = progress.add_task("preparing", total=total, figures="")
        for summary in prepare(read_all(settings.documents), codec, settings.out):
            figures = f"{summary['images']} pictures, {summary['tokens']} tokens"
            progress.update(task, completed=int(summary["documents"]), figures=figures)
    console.print(
        f"{settings.out}: {summary['documents']} documents, {summary['images']} pictures, {summary['tokens']} tokens",
        soft_wrap=True,
    )


def read_all(paths: list[Path]) -> Iterator[Document]:
    return (document for path in paths for document in read_documents(path))
