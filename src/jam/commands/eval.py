"""`jam eval`."""

from __future__ import annotations

import json
from pathlib import Path

from jsonargparse import Namespace

from jam.api.documents import count_documents
from jam.api.loading import load
from jam.api.measuring import evaluate
from jam.checkpoints import write_json
from jam.commands.arguments import Parser, add_check, add_media, add_placement, make_parser, require
from jam.commands.files import require_folder_of, say_left_out
from jam.console import Console
from jam.console.progress import progress_bar

EXAMPLES = """
jam eval fused captions.jsonl
jam eval runs/align/model captions.jsonl text.jsonl --json perplexity.json
"""


def parser() -> Parser:
    parser = make_parser("eval", "Perplexity on documents: of text, of images and of all targets, as JSON.", EXAMPLES)
    parser.add_argument("model", type=Path, help="model folder")
    parser.add_argument("documents", nargs="+", type=Path, help="JSON-lines files of documents")
    parser.add_argument("--json", type=Path | None, default=None, help="file to write the report into, too")
    parser.add_argument("--batch_size", type=int, default=4, help="packed sequences in a forward")
    add_media(parser)
    add_placement(parser, device_map=True)
    add_check(parser)
    return parser


def run(settings: Namespace) -> None:
    console = Console(stderr=True)
    require(settings.batch_size >= 1, "--batch-size", settings.batch_size, "1 or more")
    if settings.json is not None:
        require_folder_of(settings.json, "--json")
    total = count_documents(settings.documents, settings.allowed_media_path)
    model = load(settings.model, settings.device, settings.dtype, settings.device_map, check=settings.check)
    with progress_bar(console, transient=True) as progress:
        left_out: list[str] = []
        task = progress.add_task("measuring", total=total, figures="")
        report = evaluate(
            model,
            settings.documents,
            settings.batch_size,
            allowed_media_path=settings.allowed_media_path,
            on_documents=lambda count: progress.advance(task, count),
            leave_out=left_out.append,
        )
    say_left_out(console, left_out)
    if len(left_out) == total:
        raise ValueError("no document can be measured; all of them are longer than the model's context")
    print(json.dumps(report))
    if settings.json is not None:
        write_json(settings.json, report)
        console.print(f"{settings.json}: the report", soft_wrap=True, markup=False)
